"""The commonest passwords of 12 characters and more, folded to lower case; attackers try them first."""

_WORDS = "password passw0rd p@ssword p@ssw0rd qwerty letmein welcome administrator changeme iloveyou monkey dragon"
_MORE_WORDS = "football baseball sunshine princess superman starwars master secret clinical registry hospital research"
_TAILS = """
    1 12 123 1234 12345 123456 1234567 12345678 123456789 1234567890 ! 1! 12! 123! 1234! 2023 2024 2025 2026
    2027
"""
_KEYBOARD = """
    123456789012 1234567890123 12345678901234 123456789012345 1234567890123456 0123456789012 0987654321098
    098765432109 987654321098 1234567890qwerty 1234567890abc 1234qwerasdf 1234qwerasdfzxcv 123456abcdef
    123qweasdzxc 1q2w3e4r5t6y 1q2w3e4r5t6y7u 1q2w3e4r5t6y7u8i 1qaz2wsx3edc 1qaz2wsx3edc4rfv 1qazxsw23edc
    q1w2e3r4t5y6 zaq12wsxcde3 qwertyuiop123 qwertyuiop12 qwertyuiop1234 qwertyuiopasdf qwertyuiopasdfghjkl
    qwertyuiop[] asdfghjkl123 asdfghjkl1234 zxcvbnm12345 zxcvbnm123456 qazwsxedcrfv qazwsxedc123 abcdefghijkl
    abcdefghijklm abcdefghijklmnop abcd12345678 abc123456789 abcdef123456 abcdefg12345 a1b2c3d4e5f6
    a123456789012 a1234567890b aa1234567890 qwerasdfzxcv asdfasdfasdf qweqweqweqwe asdasdasdasd abcabcabcabc
    123123123123 123412341234 112233445566 121212121212 123321123321 147258369147 147258369000 159753159753
    102030405060 010203040506 111222333444 100200300400 xxxxxxxxxxxx
"""
_PHRASES = """
    correcthorsebatterystaple iloveyouforever iloveyoubaby letmeinplease letmeinnow123 thisismypassword
    mypassword123 mypassword1234 mysecretpassword passwordpassword password123password adminadminadmin
    administrator1 administrator admin1234567 admin12345678 admin123456789 adminpassword rootpassword
    defaultpassword temppassword temporarypassword changeme1234 changemenow12 changethispassword pleasechangeme
    welcome12345 welcomewelcome testtesttest testpassword test12345678 test123456789 testing12345
    guestguestguest user12345678 userpassword login1234567 master123456 manchesterunited liverpoolfc1
    chelseafc123 barcelona123 realmadrid123 arsenal12345 michaeljordan michaeljackson harrypotter1
    harrypotter123 spiderman123 superman1234 batman123456 pokemon12345 starwars1234 minecraft123 counterstrike
    leagueoflegends grandtheftauto linkinpark12 metallica123 blink182blink slipknot1234 nirvana12345
    jesuschrist1 jesuslovesme ilovejesus123 thankyoujesus godisgood123 iloveyou1234 iloveyou12345 iloveyou123456
    loveyouforever sweetheart123 chocolate123 strawberry123 butterfly123 sunshine1234 princess1234 basketball123
    football1234 baseball1234 computer1234 internet1234 samsung12345 motorola1234 facebook1234 google123456
    microsoft123 windows12345 iphone123456 trustno1trustno1 whatever1234 secret123456 dragon123456 monkey123456
    shadow123456 hello1234567 helloworld123 helloworld12 hellohello12 nopassword123 forgetpassword rememberme12
    unknownpassword administrateur motdepasse12 motdepasse123 contrasena123 passwort1234 passwort12345
    wachtwoord123 wachtwoord12 hasloHaslo12 salasana1234 jelszo123456 heslo1234567 clinicaltrial clinicaltrial1
    clinicaltrials researchregistry registrypassword studypassword hospital1234 doctor123456
"""

COMMON_PASSWORDS = frozenset(
    {word + tail for word in f"{_WORDS} {_MORE_WORDS}".split() for tail in _TAILS.split()}
    | {text.casefold() for text in f"{_KEYBOARD} {_PHRASES}".split()}
)
