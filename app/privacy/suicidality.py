"""Preferred terms of suicidality and self-harm. No deidentified extract shows them, whether or not the site marked the
event as one of special interest.

The words are those of MedDRA's SMQ "Suicide/self-injury", in those languages of MedDRA whose letters a cell of an
extract can have (Czech, Dutch, English, French, German, Hungarian, Italian, Portuguese, Russian, Spanish), and in
Danish, Norwegian and Swedish. They are written without accents, which are removed from a term before it is compared.
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


def is_suicidality(term: str) -> bool:
    """Whether a preferred term is one of suicidality or self-harm."""
    folded = unicodedata.normalize("NFKD", term.casefold())
    return _WORDS.search("".join(sign for sign in folded if not unicodedata.combining(sign))) is not None


def is_suicidality_in_english(term: str) -> bool:
    """The same by English words only, as in the profile's versions up to 3."""
    return _ENGLISH.search(term) is not None
