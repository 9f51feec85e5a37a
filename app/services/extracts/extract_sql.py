"""SQL expressions for the rows of extracts: study days, windows and rare codes, so that no date leaves the database."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from uuid import UUID

from sqlalchemy import (
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Integer,
    Subquery,
    Text,
    bindparam,
    case,
    distinct,
    func,
    literal,
    select,
    true,
    tuple_,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import aliased
from sqlalchemy.sql.functions import GenericFunction
from sqlmodel import Session, col

from app.access import Rows
from app.models.adverse_event import AdverseEvent
from app.models.among import among
from app.models.extract import ExtractSubject
from app.models.outcome import Outcome
from app.models.participant import Participant
from app.models.visit import HELD, Visit
from app.models.voided import counts
from app.privacy.profile import common_codes, of_nearly_all
from app.privacy.quasi import DAYS_SINCE_DOSE, OTHER, SINCE_DOSE
from app.privacy.suicidality import is_suicidality
from app.protocol.definition import Protocol
from app.services.dosing.exposure import visits_without_dose
from app.services.extracts.as_at_tables import records
from app.services.participation.collected import OF_EVENT, OF_OUTCOME, OF_VISIT, collected


class days_between(GenericFunction[int]):  # noqa: N801 - a SQL function
    """Whole days from the second date to the first, on both databases."""

    type = Integer()
    inherit_cache = True


@compiles(days_between, "postgresql")
def _on_postgresql(element: Any, compiler: Any, **options: Any) -> str:
    later, earlier = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({later} - {earlier})"


@compiles(days_between, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **options: Any) -> str:
    later, earlier = (compiler.process(clause, **options) for clause in element.clauses)
    return f"CAST(julianday({later}) - julianday({earlier}) AS INTEGER)"


class bytewise(GenericFunction[str]):  # noqa: N801 - a SQL function
    """Text sorted by its bytes, the same on both databases, whatever the collation of this one."""

    type = Text()
    inherit_cache = True


@compiles(bytewise, "postgresql")
def _in_c(element: Any, compiler: Any, **options: Any) -> str:
    return f'{compiler.process(element.clauses, **options)} COLLATE "C"'


@compiles(bytewise, "sqlite")
def _as_always(element: Any, compiler: Any, **options: Any) -> str:
    """A unary plus, so that SQLite uses no index for the order. To avoid a cheap sort it would read the whole table for
    each person, as the expressions of `as_at` have no index."""
    return f"+{compiler.process(element.clauses, **options)}"


class together(GenericFunction[Any]):  # noqa: N801 - a SQL function
    """All texts of a group as one value: a hash, the same for groups of the same texts, of which none may be twice in a
    group; on SQLite the texts themselves, as lines in any order."""

    type = Text()
    inherit_cache = True


@compiles(together, "postgresql")
def _hashed(element: Any, compiler: Any, **options: Any) -> str:
    """Without a sort, and by several processes. Of a million people two share 64 bits by chance once in 37 million
    times."""
    return f"bit_xor(hashtextextended({compiler.process(element.clauses, **options)}, 0))"


@compiles(together, "sqlite")
def _joined(element: Any, compiler: Any, **options: Any) -> str:
    return f"group_concat({compiler.process(element.clauses, **options)}, char(10))"


def unhurried(session: Session) -> None:
    """Settings of PostgreSQL for reading a whole study, which takes longer than a request may. It has no statistics of
    a new extract yet and would plan for a few people: nested loops took three times as long, and a join order of its
    own choice, in a registry's first extract, forty times, as it joined all visits of a site with all of its people.
    With a merge join each parallel process would sort all rows of the expressions of `as_at`, which took twice as
    long."""
    if session.get_bind().dialect.name == "postgresql":
        for setting in ("statement_timeout = 0", "idle_in_transaction_session_timeout = 0", *_BULK):
            session.connection().exec_driver_sql(f"SET LOCAL {setting}")


_BULK = ("work_mem = '128MB'", "enable_nestloop = off", "enable_mergejoin = off", "join_collapse_limit = 1")


def selected(*wanted: Any) -> Rows:
    return select(*wanted)


def of_subject(extract_id: UUID, table: Any) -> ColumnElement[bool]:
    """The rows of a table that belong to a subject of the extract: not voided, and collected in time."""
    days, whose = _DAYS[table], _at_subject(extract_id, table)
    if table is not Participant:
        whose &= counts(table)
    return whose & collected(ENDED, *days) if days else whose


def _at_subject(extract_id: UUID, table: Any) -> ColumnElement[bool]:
    """All rows of a table that a subject of the extract has. The id is given as a subquery: for a literal that is not
    in its statistics PostgreSQL would plan for one person, and for a subquery it plans for an average extract."""
    subject = ExtractSubject
    this = select(literal(extract_id)).scalar_subquery()
    same = (col(subject.site_id) == col(table.site_id)) & (col(subject.pid) == col(table.pid))
    return (col(subject.extract_id) == this) & same


def with_outcomes(statement: Rows, extract_id: UUID, dialect: Dialect) -> Rows:
    """A statement joined to the outcomes of the extract, and these to their visits. PostgreSQL reads all of a table
    whatever it is joined by, so it begins with people and visits, which are fewer; SQLite finds a person's outcomes by
    an index."""
    if dialect.name == "sqlite":
        return statement.join(Outcome, of_subject(extract_id, Outcome)).join(Visit, at_visit())
    # An equation it would take for one more thing that few rows have: expect four of a million, and sort in one process
    own = case((col(Outcome.pid) == col(ExtractSubject.pid), true()))
    return statement.join(Visit, _at_subject(extract_id, Visit)).join(Outcome, at_visit() & counts(Outcome) & own)


def at_visit() -> ColumnElement[bool]:
    """The visit of an outcome, if both belong to the extract."""
    same = (col(Visit.site_id) == col(Outcome.site_id)) & (col(Visit.id) == col(Outcome.visit_id))
    return same & collected(ENDED, *OF_OUTCOME)


SHOWN = tuple(
    col(one)
    for one in (
        ExtractSubject.age_group,
        ExtractSubject.sex,
        ExtractSubject.race,
        ExtractSubject.country,
        ExtractSubject.status,
    )
)
"""The traits that all people of a class share."""

ENDED = col(ExtractSubject.collection_ended_on)
_DAYS: Mapping[Any, Any] = {Visit: OF_VISIT, AdverseEvent: OF_EVENT, Outcome: (), Participant: ()}
"""The tables of extracts, each with the days that decide whether a row was collected in time (`collected`). An outcome
is checked together with its visit, see `at_visit`; a participant's row is always included, and its own days decide what
it shows."""


def study_day(on: Any) -> ColumnElement[Any]:
    """CDISC SDTM IG 3.2, section 4.1.4.4: day 1 is the reference day, the day before is -1."""
    days = days_between(on, col(ExtractSubject.anchor_on))
    return case((days >= 0, days + 1), else_=days)


def full_onset() -> ColumnElement[Any]:
    """The day of onset, if it is known to the day; else NULL."""
    return case((func.length(AdverseEvent.onset) == len("2024-03-05"), col(AdverseEvent.onset_earliest)))


def common(session: Session, extract_id: UUID, table: Any, *codes: Any, listed: bool) -> list[Any]:
    """Each code if enough participants of the extract share it, else OTHER. The shared codes are queried first, so that
    a row can be made from its own person's data. All columns given show the same codes, as one often implies the
    other."""
    sharing, fewest = func.count(distinct(col(ExtractSubject.subject))), dict[str, int]()
    for code in codes:
        counted = selected(code, sharing).join(ExtractSubject, of_subject(extract_id, table)).group_by(code)
        for one, people in session.execute(counted.where(col(code).is_not(None))):
            fewest[one] = min(people, fewest.get(one, people))
    shown = common_codes(fewest, listed=listed)
    return [
        case((col(one).is_(None), None), (among(one, f"shared_{one.key}", shown), one), else_=OTHER).label(one.key)
        for one in codes
    ]


def spread(
    session: Session,
    extract_id: UUID,
    code: Any,
    released: ColumnElement[bool],
    withheld: str | None,
    *,
    listed: bool,
    of_suicidality: Callable[[str], bool] = is_suicidality,
) -> ColumnElement[Any]:
    """A code of adverse events if enough participants of the extract share it and in no class nearly all do; else OTHER
    for everybody, as in such a class those without the code would be disclosed. Events that are not `released` are not
    counted, and show `withheld`."""
    subject = ExtractSubject
    classes = select(*SHOWN, func.count()).where(col(subject.extract_id) == extract_id).group_by(*SHOWN)
    sizes = {row[:-1]: row[-1] for row in map(tuple, session.execute(classes))}
    having = selected(code, *SHOWN, func.count(distinct(col(subject.subject))))
    having = having.join(subject, of_subject(extract_id, AdverseEvent)).where(col(code).is_not(None), released)
    people, apart = Counter[str](), set[str]()
    for one, *of_class, number in session.execute(having.group_by(code, *SHOWN)):
        people[one] += number
        if of_nearly_all(number, sizes[tuple(of_class)]) or of_suicidality(one):
            apart.add(one)
    told = among(code, f"shared_{code.key}", common_codes(people, listed=listed, withheld=apart))
    missing = (col(code).is_(None), None)
    return case(missing, (~released, withheld), (told, code), else_=OTHER).label(code.key)


def stretches(session: Session, extract_id: UUID, people: int) -> list[dict[str, str]]:
    """The subjects of an extract divided, in their order, into stretches of `people`: the first and last of each."""
    subject = bytewise(ExtractSubject.subject)
    placed = select(subject.label("subject"), func.row_number().over(order_by=subject).label("place"))
    one = placed.where(col(ExtractSubject.extract_id) == extract_id).subquery().c
    stretch = (one.place - 1) // people
    ends = select(func.min(one.subject).label("first"), func.max(one.subject).label("last"))
    return [{**row} for row in session.execute(ends.group_by(stretch).order_by(stretch)).mappings()]


def in_stretch() -> ColumnElement[bool]:
    """The condition for the rows of one stretch, which can use the index. For SQLite, which compares by bytes
    anyway."""
    return col(ExtractSubject.subject).between(bindparam("first"), bindparam("last"))


def people_of_stretch(extract_id: UUID) -> Subquery:
    subject = ExtractSubject
    return selected(subject.site_id, subject.pid).where(col(subject.extract_id) == extract_id, in_stretch()).subquery()


class Timing:
    """Whether each visit was early, in its window or late, by the protocol version under which it was recorded: as
    `schedule.window_of`, but over many visits. `by_screening`: a visit of a screening has no window once the next
    screening has its own, and what counts from one counts from that of its screening (`schedule.day_beside`); in
    earlier versions of the profile it had one, and all counted from the first."""

    def __init__(
        self, dialect: Dialect, protocols: Mapping[int, Protocol], ended: Any = ENDED, *, by_screening: bool = True
    ) -> None:
        self._ended, self._by_screening = ended, by_screening
        windows = [*_windows(protocols)]
        self._screenings = sorted({one["anchor"] for one in windows if one["each"] and by_screening})
        self._plan = records(dialect, "plan", _PLAN, windows)
        self._anchor, self._following, self._person = aliased(Visit), aliased(Visit), aliased(Participant)

    def joined(self, statement: Rows) -> Rows:
        """The statement joined to the visit's window and to the anchor visit from which the window is counted."""
        plan, person = self._plan.c, self._person
        version = func.coalesce(col(Visit.protocol_version_id), col(person.protocol_version_id))
        of_person = (col(person.site_id) == col(Visit.site_id)) & (col(person.pid) == col(Visit.pid))
        timed = (
            statement.join(person, of_person)
            .outerjoin(self._plan, (plan.version == version) & (plan.code == col(Visit.visit_code)))
            .outerjoin(self._anchor, self._beside(self._anchor, plan.anchor, 1))
        )
        if not self._by_screening:
            return timed
        following = self._following
        again = self._beside(following, plan.again, col(Visit.occurrence) + plan.repeats)
        held = (col(following.occurrence) > 1) & col(following.occurred_on).is_not(None)  # few, so quickly joined
        return timed.outerjoin(following, again & held)

    def _beside(self, other: Any, code: Any, occurrence: Any) -> ColumnElement[bool]:
        """The condition for another visit of the same person."""
        beside: ColumnElement[bool] = (
            (col(other.site_id) == col(Visit.site_id))
            & (col(other.pid) == col(Visit.pid))
            & (col(other.visit_code) == code)
            & (col(other.occurrence) == occurrence)
            & counts(other)
            & collected(self._ended, col(other.occurred_on))
        )
        return beside

    @property
    def _anchor_on(self) -> Any:
        """The day from which the window counts, as in `schedule.day_beside`. Looked for only where somebody was
        screened again, as few were."""
        first = col(self._anchor.occurred_on)
        if not self._screenings:
            return first
        plan, other = self._plan.c, aliased(Visit)
        number, day = col(other.occurrence), col(other.occurred_on)
        firsts = self._beside(other, plan.anchor, number) & ((number - 1) % plan.each == 0) & day.is_not(None)
        screening = (col(Visit.occurrence) - 1) // plan.repeats
        until = case((plan.numbered, (number - 1) // plan.each <= screening), else_=day <= col(Visit.occurred_on))
        screened_again = plan.again.is_not(None) & (col(Visit.occurrence) > plan.repeats)
        of_failed = (day < col(Visit.occurred_on)) & ((number - 1) // plan.each < screening)
        days = select(day).where(firsts, ~(screened_again & plan.leads & of_failed)).correlate_except(other).limit(1)
        nearest = days.where(until).order_by(number.desc()).scalar_subquery()
        chosen = func.coalesce(nearest, days.order_by(number).scalar_subquery())
        further: Any = aliased(Visit)
        of_further = col(further.visit_code).in_(self._screenings), col(further.occurrence) > 1, counts(further)
        again = select(further.site_id, further.pid).where(*of_further)
        several = screened_again | tuple_(Visit.site_id, Visit.pid).in_(again)
        return case((plan.each == 0, first), (several, chosen), else_=first)

    @property
    def column(self) -> ColumnElement[Any]:
        plan = self._plan.c
        failed: ColumnElement[bool] = literal(False)
        days = days_between(col(Visit.occurred_on), self._anchor_on)
        earlier: ColumnElement[Any] = col(Visit.occurrence) - 1
        if self._by_screening:
            failed = col(self._following.id).is_not(None)
            earlier = case((plan.again.is_not(None), earlier % plan.repeats), else_=earlier)
        within = days - earlier * plan.repeat
        return case(
            (failed, None),
            (within < plan.first, "early"),
            (within > plan.last, "late"),
            (within.is_not(None), "in_window"),
        )


_PLAN: tuple[Column[Any], ...] = (
    Column("version", Integer),
    Column("code", Text),
    Column("anchor", Text),
    Column("again", Text),
    *(Column(name, Boolean) for name in ("numbered", "leads")),
    *(Column(name, Integer) for name in ("first", "last", "repeat", "repeats", "each")),
)


def _windows(protocols: Mapping[int, Protocol]) -> Iterator[dict[str, Any]]:
    """For each planned visit with a window, its first and last day, counted from its anchor visit. `again` is its code
    if each screening has such visits of its own, so many as `repeats`; `numbered`: its occurrence says of which one it
    is; `leads`: it comes before its anchor; `each` is how many of its anchor visits each screening has, 0 if none of
    its own."""
    for version, protocol in protocols.items():
        for visit in protocol.visits:
            if visit.has_window:
                yield {
                    "version": version,
                    "code": visit.code,
                    "anchor": visit.anchor,
                    "first": visit.offset_days - visit.window_before,
                    "last": visit.offset_days + visit.window_after,
                    "repeat": visit.repeat_every_days or 0,
                    "again": visit.code if visit.in_each_screening else None,
                    "numbered": visit.numbered_by_screening,
                    "leads": visit.anchor in protocol.after(visit.code),
                    "repeats": visit.repeats,
                    "each": protocol.by_screening(visit.anchor),
                }


def since_dose(dosing: frozenset[str], *, given: bool) -> ColumnElement[Any]:
    """The class of days from the last dosing visit to the onset of an adverse event. `given`: a visit whose dose was
    not given is none, as in `Exposure.days_since`; in earlier versions of the profile it was."""
    dosed = aliased(Visit)
    onset = full_onset()
    visits = select(func.max(dosed.occurred_on))
    if given:
        visits = visits.where(col(dosed.id).not_in(visits_without_dose()))
    last = (
        visits.where(
            col(dosed.site_id) == col(AdverseEvent.site_id),
            col(dosed.pid) == col(AdverseEvent.pid),
            counts(dosed),
            col(dosed.visit_code).in_(sorted(dosing)),
            col(dosed.status).in_(sorted(HELD)),
            col(dosed.occurred_on) <= onset,
        )
        .correlate(AdverseEvent)
        .scalar_subquery()
    )
    days = days_between(onset, last)
    before, *_, long_after = SINCE_DOSE
    classes = ((days <= most, name) for name, most in DAYS_SINCE_DOSE.items())
    return case((onset.is_(None), None), (days.is_(None), before), *classes, else_=long_after)
