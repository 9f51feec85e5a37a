"""Preferred terms of suicidality and self-harm, which no deidentified extract shows, marked by the site or not.

The words are those by which MedDRA's SMQ "Suicide/self-injury" goes, in the languages in which MedDRA comes and which a
cell of an extract can hold (Czech, Dutch, English, French, German, Hungarian, Italian, Portuguese, Russian, Spanish),
and in Danish, Norwegian and Swedish. Written without accents, as they are looked for.
"""

import re
import unicodedata

_ENGLISH = re.compile(r"suicid|self.?(injur|harm)", re.IGNORECASE)

_WORDS = re.compile(
    "|".join(
        (
            "suicid",  # also French, Italian, Portuguese, Spanish, and suïcide
            "self.?(injur|harm|mutil)",
            "suizid|selbst(mord|totung|verletz|schadig|beschadig)",
            "zelf(moord|doding|verwond|beschadig)",
            "auto.?(lesi|lesa|mutil|ag+res)",
            "sebe(vraz|poskoz)",
            "on(gyilkos|karosit|sert)",
            "selv(mord|skad)|sjalv(mord|skad)",
            "самоуб|суицид|самоповрежд",
        )
    )
)


def tells_of_it(term: str) -> bool:
    """Whether a term is one of these."""
    folded = unicodedata.normalize("NFKD", term.casefold())
    return _WORDS.search("".join(sign for sign in folded if not unicodedata.combining(sign))) is not None


def tells_in_english(term: str) -> bool:
    """By which the profile's versions up to 3 went."""
    return _ENGLISH.search(term) is not None
