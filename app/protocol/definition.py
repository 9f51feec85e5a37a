"""A study's protocol version as data: the schedule and the thresholds here, the other parts in files of their own."""

from collections.abc import Mapping
from datetime import date, timedelta
from enum import StrEnum
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Annotated

from pydantic import Field, Strict, StringConstraints

from app.protocol.base import Code, Codes, Definition, Listed, Share, Text, Title, Versioned, VisitCode
from app.protocol.clocks import Clock
from app.protocol.consent import Amendment, ConsentVersion
from app.protocol.dosing import Dosing, VisitsHeld
from app.protocol.eligibility import Criterion
from app.protocol.raters import RaterIndependence
from app.protocol.rules import Band, reached
from app.protocol.safety import SafetyRule
from app.protocol.verification import Verification
from app.protocol.vitals import Measure, Vitals

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9\-]{0,63}$")]
Days = Annotated[int, Field(ge=-36_500, le=36_500)]


class UnknownVisit(LookupError):
    """The protocol has no visit of this code."""


class VisitKind(StrEnum):
    screening = "screening"
    baseline = "baseline"
    preparation = "preparation"
    dosing = "dosing"
    treatment = "treatment"
    integration = "integration"
    endpoint = "endpoint"
    follow_up = "follow_up"
    phone = "phone"
    unscheduled = "unscheduled"
    early_termination = "early_termination"


_OF_TREATMENT = frozenset(
    {VisitKind.dosing, VisitKind.treatment, VisitKind.integration, VisitKind.endpoint, VisitKind.follow_up}
)


class Arm(Definition):
    code: Code
    label: Title


class VisitDefinition(Definition):
    """A planned contact. Its window is counted from an anchor visit, as studies count from more than one day."""

    code: VisitCode
    name: Title
    kind: Annotated[VisitKind, Strict(False)]
    anchor: VisitCode | None = None
    """The visit from which it is planned. None: it has no window. Itself: it has no window, and others are counted from
    it."""

    offset_days: Days = 0
    """Planned day = date of the anchor + this."""

    window_before: Days = 0
    window_after: Days = 0
    optional: bool = False
    repeats: Annotated[int, Field(ge=0, le=1_000)] = 1
    """Planned occurrences; 0: any number."""

    repeat_every_days: Annotated[int, Field(ge=1, le=3_650)] | None = None
    """Each occurrence is planned so many days after the one before; None: all share one window."""

    before: VisitCode | None = None
    """The visit that it must precede: from the day after that one it is overdue."""

    needs_scope: Code | None = None
    """Not applicable to participants who do not agree to this consent scope."""

    kept_after_early_termination: bool = False
    """Still planned for those who had an early termination visit."""

    instruments: Codes = ()
    source: Text | None = None
    """None here, in consents and in eligibility: the protocol's own source."""

    @property
    def has_window(self) -> bool:
        return self.anchor not in (None, self.code)

    @property
    def follows_anchor(self) -> bool:
        """Whether each day of its window lies after its anchor, so that it cannot take place without the anchor."""
        return self.has_window and self.offset_days > self.window_before

    def screens_again(self, occurrence: int) -> bool:
        """Whether this occurrence belongs to a further screening."""
        return self.in_each_screening and occurrence > self.repeats

    @property
    def in_each_screening(self) -> bool:
        """Whether each screening has such visits of its own, so many as `repeats`: a re-screening is a new screening
        episode under the same participant (domain.md, section 6). Visits from the first dose on are of no screening, as
        none that failed has a dose (section 3); they are planned once for all."""
        return self.repeats > 0 and self.kind not in _OF_TREATMENT

    @property
    def numbered_by_screening(self) -> bool:
        """Whether its occurrence says to which screening it belongs. Of any other visit the first occurrence may be of
        a later screening, if the ones before it failed too early to have one: there its day says it."""
        return self.in_each_screening and self.kind is VisitKind.screening

    @cached_property
    def depends_on(self) -> frozenset[VisitCode]:
        """The visits on whose days it depends whether this visit's day is as planned."""
        return frozenset(code for code in (self.anchor, self.before) if code not in (None, self.code))


class Safety(Definition):
    sae_report_hours: Annotated[int, Field(ge=1, le=720)]
    """From the site's awareness of a serious adverse event to its report to the sponsor."""

    clocks: Annotated[tuple[Clock, ...], Listed] = ()
    """Further reports, such as those of the sponsor to the authorities."""

    source: Text

    @property
    def sae_report_within(self) -> timedelta:
        return timedelta(hours=self.sae_report_hours)


class Threshold(Definition):
    """When a score counts as response or remission, on scales where higher is worse; and the visits that are
    compared."""

    instrument: Code
    score: Code
    remission_max: int | None = None
    response_fraction: Share | None = None
    """Fall from baseline, as a share of baseline, that counts as response."""

    response_max: int | None = None
    """Response by an absolute value, where the scale's literature defines it so; never with a fraction. Where the
    baseline is known, the value must have fallen below it."""

    baseline: VisitCode | None = None
    """The visit whose score the others are compared with."""

    endpoint: VisitCode | None = None
    """The visit at which the study's question is answered."""

    bands: Annotated[tuple[Band, ...], Listed] = ()
    """Where this study names other parts of the range than the instrument does."""

    source: Text

    def band(self, value: float | None) -> str | None:
        return reached(self.bands, value)

    def remission(self, value: float | None) -> bool | None:
        """None without a value or without a remission rule."""
        if value is None or self.remission_max is None:
            return None
        return value <= self.remission_max

    def response(self, baseline: float | None, value: float | None) -> bool | None:
        """None if it cannot be determined: no value, no rule, or no baseline above 0."""
        if value is None:
            return None
        if self.response_max is not None:
            return value <= self.response_max and (baseline is None or value < baseline)
        if self.response_fraction is None or baseline is None or baseline <= 0:
            return None
        return _falls_by(self.response_fraction, baseline, value)


@lru_cache(maxsize=10_000)  # a scale has few values, and a study many participants
def _falls_by(share: float, baseline: float, value: float) -> bool:
    """Exact: no float decides an endpoint."""
    return Fraction(baseline) - Fraction(value) >= Fraction(str(share)) * Fraction(baseline)


class SpecialInterest(Definition):
    """A kind of adverse event that the study watches and asks for."""

    code: Code
    label: Title
    alert: bool = False
    """Told to the monitor at once, serious or not: the person concerned may be a colleague of the one who reports
    it."""

    source: Text


class Protocol(Versioned):
    """One protocol version. Immutable once in use; participants are pinned to one."""

    code: Slug
    study_day_anchors: Annotated[tuple[VisitCode, ...], Listed, Field(min_length=1)]
    arms: Annotated[tuple[Arm, ...], Listed] = ()
    visits: Annotated[tuple[VisitDefinition, ...], Listed]
    consents: Annotated[tuple[ConsentVersion, ...], Listed] = ()
    eligibility: Annotated[tuple[Criterion, ...], Listed] = ()
    safety: Safety
    thresholds: Annotated[tuple[Threshold, ...], Listed] = ()
    vitals: Vitals | None = None
    dosing: Dosing | None = None
    safety_rules: Annotated[tuple[SafetyRule, ...], Listed] = ()
    rater_independence: RaterIndependence | None = None
    verification: Verification | None = None
    """None: the study has no plan, and nothing is counted as due."""

    amendments: Annotated[tuple[Amendment, ...], Listed] = ()
    """How this version came about, oldest first; the last one made this version."""

    special_interest: Annotated[tuple[SpecialInterest, ...], Listed] = ()
    historical_totals: Codes = ()
    """Instruments of which totals without items are taken, for data from before the registry."""

    exposure_visits: Codes = ()
    """Visits at which the treatment is given; if none is named, those of kind dosing. Participants who had a dose at
    one of them are in the safety population (ICH E9, section 5.2.3)."""

    @cached_property
    def alerts(self) -> frozenset[str]:
        return frozenset(interest.code for interest in self.special_interest if interest.alert)

    @cached_property
    def exposure(self) -> frozenset[str]:
        dosing = (visit.code for visit in self.visits if visit.kind is VisitKind.dosing)
        return frozenset(self.exposure_visits or dosing)

    @cached_property
    def measures(self) -> Mapping[str, Measure]:
        """The vital signs that it knows, by code."""
        return {measure.code: measure for measure in self.vitals.measures} if self.vitals else {}

    @cached_property
    def scopes(self) -> frozenset[str]:
        """The scopes of all its consent versions."""
        return frozenset(scope for consent in self.consents for scope in consent.scopes)

    @property
    def holds_from(self) -> date:
        """The day from which participants can be enrolled under, or moved to, this version."""
        return self.amendments[-1].valid_from if self.amendments else date.min

    def visit(self, code: str) -> VisitDefinition:
        """Raises UnknownVisit."""
        visit = self.planned(code)
        if visit is None:
            raise UnknownVisit("The protocol has no such visit")
        return visit

    def planned(self, code: str) -> VisitDefinition | None:
        """The visit, or None if it has no such visit."""
        return self._by_code.get(code)

    @cached_property
    def _by_code(self) -> Mapping[VisitCode, VisitDefinition]:
        return {visit.code: visit for visit in self.visits}

    def by_screening(self, code: str | None) -> int:
        """The number of such visits in each screening; 0 if screenings have none of their own, as of a telephone visit
        that can only follow one of the treatment."""
        visit = self.planned(code or "")
        return visit.repeats if visit and visit.in_each_screening and visit.code not in self._after_treatment else 0

    @cached_property
    def _after_treatment(self) -> frozenset[VisitCode]:
        of_treatment = (visit.code for visit in self.visits if visit.kind in _OF_TREATMENT)
        return frozenset[VisitCode]().union(*(self.after(code) for code in of_treatment))

    def after(self, code: str) -> frozenset[VisitCode]:
        """The visits that cannot come before this one, by the declared order and by windows that lie entirely on one
        side of their anchor."""
        later: set[VisitCode] = set()
        ahead = [code]
        while ahead:
            new = self._next.get(ahead.pop(), set()) - later
            later |= new
            ahead += new
        return frozenset(later)

    @cached_property
    def _next(self) -> Mapping[VisitCode, set[VisitCode]]:
        """For each visit those that it must precede."""
        later: dict[VisitCode, set[VisitCode]] = {}
        for visit in self.visits:
            if visit.before is not None:
                later.setdefault(visit.code, set()).add(visit.before)
            if visit.has_window and visit.anchor is not None:
                if visit.offset_days - visit.window_before > 0:
                    later.setdefault(visit.anchor, set()).add(visit.code)
                elif visit.offset_days + visit.window_after < 0:
                    later.setdefault(visit.code, set()).add(visit.anchor)
        return later

    def depends_on(self, code: str) -> frozenset[VisitCode]:
        """The visits whose days say whether this one's is as planned."""
        visit = self.planned(code)
        return visit.depends_on if visit else frozenset()

    def needs_scope(self, code: str) -> str | None:
        """The scope of consent that this visit needs."""
        visit = self.planned(code)
        return visit.needs_scope if visit else None

    def has_dependents(self, code: str, occurrence: int) -> bool:
        """Whether it depends on the day of this visit if the days of others are as planned."""
        visit = self.planned(code)
        again = visit is not None and visit.screens_again(occurrence)
        return again or (occurrence == 1 and code in self._anchors)

    @cached_property
    def _anchors(self) -> frozenset[VisitCode]:
        """The visits on whose days those of others depend."""
        return frozenset[VisitCode]().union(*(visit.depends_on for visit in self.visits))

    def prepares(self, code: str) -> bool:
        """Whether a dose requires this visit before it."""
        rules = self.dosing.preconditions if self.dosing else ()
        return any(code in rule.visits for rule in rules if isinstance(rule, VisitsHeld))
