"""Bad input: refused with a problem document that points at the field and repeats nothing; and nothing is stored."""

from typing import Any

import pytest

from tests.hostile import require_problem
from tests.hostile_requests import BODIES, MARK, NAMES, Targets, nothing_kept
from tests.impossible_values import (
    CHOICE,
    CODE,
    DAY,
    DOSING_FIELDS,
    INSTANT,
    INTEGER,
    ITEMS,
    KEYS,
    LABEL,
    LINE,
    PARTIAL,
    PID,
    REASON,
    TEXT,
    TRUTH,
    UUID_LIKE,
)
from tests.world import Registry, World


@pytest.fixture(scope="module")
def targets(registry: Registry) -> Targets:
    return Targets(World(registry))


@pytest.fixture(scope="module")
def unspoilt(registry: Registry) -> Targets:
    return Targets(World(registry))


@pytest.mark.by_turns
@pytest.mark.parametrize("name", NAMES)
def test_the_unspoilt_request_is_not_what_is_refused(unspoilt: Targets, name: str) -> None:
    target = unspoilt[name]
    answer = target.send_json(target.body)
    assert answer.status_code == 401 if name == "open_session" else answer.is_success, answer.text


@pytest.mark.by_turns
@pytest.mark.parametrize("kind", BODIES)
def test_a_body_that_cannot_be_read_is_refused_everywhere(targets: Targets, kind: str) -> None:
    content, headers, status = BODIES[kind]
    chosen = [targets[name] for name in NAMES]
    with nothing_kept(targets):
        for target in chosen:
            problem = require_problem(target.send(content, **headers), MARK, "99999999")
            assert problem["status"] == status, target.path


UNKNOWN = (MARK, f"{MARK}\0", f"\ud800{MARK}", f"{MARK}/~ é", "x" * 70_000, "")


@pytest.mark.by_turns
@pytest.mark.parametrize("name", NAMES)
def test_unknown_fields_are_refused_and_not_repeated(targets: Targets, name: str) -> None:
    target = targets[name]
    bodies = [target.with_unknown(key) for key in UNKNOWN]
    with nothing_kept(targets):
        for body in bodies:
            problem = require_problem(target.send_json(body), MARK, "x" * 100, "\\ud800")
            assert [error["code"] for error in problem["errors"]] in ([], ["extra_forbidden"], ["string_unicode"])


FIELDS: tuple[tuple[str, str, tuple[Any, ...]], ...] = (
    ("enrol", "/age_at_consent", (*INTEGER, 17, 121, None)),
    ("enrol", "/sex", CHOICE),
    ("enrol", "/race", LINE),
    ("enrol", "/planned_arm", (*CODE, "NO_SUCH_ARM")),
    ("enrol", "/screened_on", DAY),
    ("enrol", "/enrolled_on", DAY),
    ("enrol", "/site_local_id", LABEL),
    ("enrol", "/study", (*CODE, None)),
    ("enrol", "/site", (*CODE, None)),
    ("enrol", "/protocol_version", (*CODE, "99")),
    ("enrol", "/consent", (None, [], MARK, {}, True)),
    ("enrol", "/consent/version", (*CODE, None)),
    ("enrol", "/consent/given_on", DAY),
    ("enrol", "/consent/scopes", (None, MARK, {}, ["s"] * 21)),
    ("enrol", "/consent/scopes/0", CODE),
    ("enrol", "/eligibility/met", tuple(value for value in TRUTH if value is not None)),
    ("enrol", "/eligibility/unmet", (None, MARK, {})),
    ("amend_participant", "/age_at_consent", INTEGER),
    ("amend_participant", "/reason", REASON),
    ("amend_participant", "/enrolled_on", DAY),
    ("change_status", "/status", CHOICE),
    ("change_status", "/effective_on", (*DAY, None)),
    ("change_status", "/reason", REASON),
    ("find_participant", "/site_local_id", LABEL),
    ("record_visit", "/participant", PID),
    ("record_visit", "/visit_code", (*CODE, "NO_SUCH_VISIT")),
    ("record_visit", "/occurrence", (*(value for value in INTEGER if value != 41.0), 0, 1001, 41.0)),
    ("record_visit", "/occurred_on", DAY),
    ("record_visit", "/ended_on", DAY),
    ("record_visit", "/status", CHOICE),
    ("record_visit", "/deviation_reason", tuple(value for value in REASON if value is not None)),
    ("record_visit", "/outcomes", (None, MARK, {}, [{}] * 51)),
    ("record_visit", "/outcomes/0/instrument", (*CODE, "NO_SUCH_INSTRUMENT")),
    ("record_visit", "/outcomes/0/collected_on", DAY),
    ("record_visit", "/outcomes/0/items", (*ITEMS[1:], *KEYS)),
    ("amend_visit", "/occurred_on", DAY),
    ("amend_visit", "/status", CHOICE[:-4]),
    ("amend_visit", "/reason", REASON),
    ("record_outcome", "/visit", UUID_LIKE),
    ("record_outcome", "/participant", PID),
    ("record_outcome", "/items", (*ITEMS[1:], *KEYS)),
    ("amend_outcome", "/reason", REASON),
    ("amend_outcome", "/items", (*ITEMS[1:], *KEYS)),
    ("report_adverse_event", "/term", (*LINE, None)),
    ("report_adverse_event", "/onset", PARTIAL),
    ("report_adverse_event", "/end", PARTIAL),
    ("report_adverse_event", "/severity", CHOICE),
    ("report_adverse_event", "/codings", (None, MARK, {}, [{}] * 11)),
    ("report_adverse_event", "/codings/0/term", LINE),
    ("report_adverse_event", "/codings/0/code", CODE),
    ("report_adverse_event", "/codings/0/level", CHOICE),
    ("report_adverse_event", "/criteria/death", TRUTH),
    ("report_adverse_event", "/serious_as_reported", tuple(value for value in TRUTH if value is not None)),
    ("report_adverse_event", "/relatedness_drug", tuple(value for value in CHOICE if value is not None)),
    ("report_adverse_event", "/outcome", tuple(value for value in CHOICE if value is not None)),
    ("report_adverse_event", "/special_interest", (*CODE, "NO_SUCH_INTEREST")),
    ("report_adverse_event", "/aware_at", INSTANT),
    ("amend_adverse_event", "/severity", CHOICE),
    ("amend_adverse_event", "/reason", REASON),
    *DOSING_FIELDS,
    ("set_lock", "/kind", CHOICE),
    ("set_lock", "/study", (*CODE, None)),
    ("set_lock", "/participant", tuple(value for value in PID if value is not None)),
    ("set_lock", "/reason", REASON),
    ("lift_lock", "/reason", REASON),
    ("record_verification", "/subject_type", CHOICE),
    ("record_verification", "/subject", (*PID, *UUID_LIKE)),
    ("record_verification", "/version", (*INTEGER, 0, None)),
    ("record_verification", "/result", CHOICE),
    ("record_verification", "/note", TEXT),
    ("withdraw_verification", "/reason", REASON),
    ("withdraw_review", "/reason", REASON),
    ("request_extract", "/purpose", (*TEXT, None)),
    ("request_extract", "/profile", CHOICE),
    ("request_extract", "/study", (*CODE, None)),
    ("request_extract", "/formats", (MARK, 5, [MARK], [5], ["csv"] * 4, None, {})),
    ("request_extract", "/cut", CODE),
    ("resolve_operation", "/decision", CHOICE),
    ("resolve_operation", "/reason", REASON),
    ("resolve_operation", "/if_match", ("x", MARK, 5, '"', f"@{MARK}")),
    ("make_data_cut", "/study", (*CODE, None)),
    ("make_data_cut", "/name", (*CODE, None)),
    ("make_data_cut", "/purpose", (*TEXT, None)),
    ("decide_on_extract", "/decision", CHOICE),
    ("decide_on_extract", "/reason", REASON),
    ("open_session", "/username", (5, True, None, [MARK], MARK * 200, f"{MARK}\0", f"{MARK}\ud800")),
    ("open_session", "/password", (5, True, None, [MARK], MARK * 200, f"{MARK}\ud800")),
    ("open_session", "/totp", (5, True, [MARK], MARK, "12345", "1234567", "12345\u0661", "12345\n")),
    ("change_password", "/current", (5, True, None, [MARK], MARK * 200, f"{MARK}\0")),
    ("change_password", "/new", ("", "short", "x" * 129, "x" * 12, "password1234", 5, None)),
    ("offer_totp", "/password", (5, True, None, [MARK], MARK * 200, f"{MARK}\0")),
    ("confirm_totp", "/code", (123456, True, None, [MARK], MARK, "12345", "1234567", "12345\u0661")),
    ("raise_data_query", "/participant", PID),
    ("raise_data_query", "/subject_type", CHOICE),
    ("raise_data_query", "/subject", tuple(value for value in UUID_LIKE if value is not None)),
    (
        "raise_data_query",
        "/field",
        (*CODE, "onset", "/", "/no_such", "/criteria/no", "/codings/7", "/id", "/x~1y", "/onset/"),
    ),
    ("raise_data_query", "/text", (*TEXT, None)),
    ("raise_data_queries", "/0/field", (5, True, [MARK], MARK, "/no_such", f"/{MARK}\0")),
    ("raise_data_queries", "/0/text", (*TEXT, None)),
    ("answer_data_query", "/text", (*TEXT, None)),
    ("decide_data_query", "/decision", CHOICE),
    ("decide_data_query", "/reason", REASON),
    ("create_study", "/code", (*CODE, None)),
    ("create_study", "/title", (*LINE, None)),
    ("add_site", "/country", ("", "DE", "deu", "DEU ", 5, f"{MARK}\0")),
    ("add_site", "/timezone", ("", MARK * 4, "Nowhere/Land", "../../etc/passwd", "Europe/Berlin\0", 5, None)),
    ("create_user", "/username", ("", "ab", MARK, "a b c d", "a" * 65, "abc\0", "abc\ud800", 5, None)),
    ("create_user", "/password", ("", "short", "x" * 129, "long enough 12\ud800", 5, None)),
    ("create_user", "/display_name", (*LINE, None)),
    ("link_identity", "/subject", ("", "with space", "x" * 256, 5, [MARK], f"{MARK}\0", "\u00e9")),
    ("link_identity", "/reason", REASON),
    ("create_client", "/name", (*LINE, None)),
    ("subscribe", "/kind", CHOICE),
    ("subscribe", "/address", ("", "ab", f"https://{MARK}\0", f"https://{MARK}\ud800", "x" * 501, 5, None, [MARK])),
    ("subscribe", "/study", (*CODE, None)),
    ("subscribe", "/site", (*CODE, "NO_SUCH_SITE")),
    ("subscribe", "/event_types", ([], None, MARK, {}, [MARK], [5], ["subscription.test"], ["extract.ready"] * 21)),
    ("amend_subscription", "/event_types", ([], MARK, {}, [MARK], ["subscription.test"])),
    ("amend_subscription", "/reason", REASON),
    ("grant_to_user", "/role", CHOICE),
    (
        "grant_to_user",
        "/sites",
        (MARK, {}, [], [f"{MARK}\0"], [5], ["NO_SUCH_SITE"], [f"S{n}" for n in range(100_000)]),
    ),
    ("grant_to_client", "/study", (*CODE, None)),
    ("add_protocol", "/version", (*CODE, None)),
    ("add_protocol", "/title", (*TEXT[2:], None)),
    ("add_protocol", "/visits/0/code", (*CODE, None)),
    ("add_protocol", "/visits/1/code", ("SCR",)),
    ("add_protocol", "/visits/0/anchor", (MARK, 5, f"{MARK}\0")),
    ("add_protocol", "/visits/0/offset_days", (*INTEGER[:6], 2**31, 2**63, 10**39, MARK, None)),
    ("add_protocol", "/thresholds/0/instrument", (*CODE, MARK)),
    ("add_protocol", "/safety/sae_report_hours", (*INTEGER, 0)),
)
"""Route, field, and values that the field cannot have."""


SHOWN_NEVER = (MARK, "1735689600", "4915112345678", "9" * 12, "\\ud800", "\\udfff")


@pytest.mark.by_turns
@pytest.mark.parametrize(("name", "pointer", "values"), FIELDS, ids=[f"{name}{pointer}" for name, pointer, _ in FIELDS])
def test_an_impossible_value_is_refused_at_its_field(
    targets: Targets, name: str, pointer: str, values: tuple[Any, ...]
) -> None:
    target = targets[name]
    faults: list[str] = []
    with nothing_kept(targets):
        for value in values:
            try:
                problem = require_problem(target.send_json(target.with_value(pointer, value)), *SHOWN_NEVER)
                pointed = [error["pointer"] for error in problem["errors"]]
                missing = problem["code"] == "not_found" and not pointed
                assert missing or any(place == pointer or place.startswith(f"{pointer}/") for place in pointed), problem
            except AssertionError as fault:
                faults.append(f"{ascii(value)[:80]}: {str(fault)[:300]}")
        assert not faults, "\n".join(faults)


LISTS = (
    *(
        "/v1/participants",
        "/v1/visits",
        "/v1/outcomes",
        "/v1/adverse-events",
        "/v1/extracts",
        "/v1/data-cuts",
        "/v1/label-disclosures",
        "/v1/sync",
    ),
    *("/v1/dosing-sessions", "/v1/safety-signals", "/v1/signatures", "/v1/data-queries", "/v1/audit-entries"),
    *("/v1/locks", "/v1/verifications", "/v1/subscriptions", "/v1/deliveries", "/v1/pid-reservations"),
)
LIMITS = ("-1", "0", "501", "1_0", " 5", "5 ", "5.0", "1e2", "0x10", "", "true", "2147483648", "9" * 400, MARK, "%00")
QUERIES = (
    *(f"limit={limit}" for limit in LIMITS),
    *(f"cursor={cursor}" for cursor in ("", MARK, "%00", "%FF", "é", "====", "x" * 5000, "AAAA" * 30)),
    *(
        f"{MARK}=1",
        "offset=1",
        "Study=x",
        "study[]=x",
        "=1",
        f"study={MARK}%20{MARK}",
        "study=%00",
        "study=",
        "limit=5&x",
    ),
    "limit=5&limit=501",
)
EVENT_QUERIES = (
    *(
        f"{name}={MARK}"
        for name in ("severity", "relatedness", "outcome", "serious", "overdue", "onset_from", "onset_to")
    ),
    *(f"onset_from={day}" for day in ("0001-01-01", "9999-12-31", "2025-02-30", "2025-W01-1", "1735689600", "2025-01")),
    *(
        f"updated_since={at}"
        for at in (MARK, "0", "1735689600", "1735689600.0000000000", "0001-01-01T00:00:00%2B23:59")
    ),
    *(f"participant={pid}" for pid in (MARK, "7K3F-9TQ2-XM4E", "%00", "")),
    *(f"{name}=%00{MARK}" for name in ("term", "soc", "aesi", "study", "site")),
    *(f"serious={word}" for word in ("1", "0", "yes", "True", "")),
    *("term=", f"term={MARK * 50}", f"severity=mild&{MARK}=1", "updated_since=9999-12-31T23:59:59-12:00"),
)


@pytest.mark.by_turns
@pytest.mark.parametrize("query", QUERIES)
def test_a_query_that_means_nothing_is_refused_by_every_list(targets: Targets, query: str) -> None:
    for path in LISTS:
        world = targets.world
        caller = {"/v1/extracts": world.analyst, "/v1/data-cuts": world.analyst, "/v1/sync": world.staff_a}.get(
            path, world.monitor
        )
        require_problem(caller.raw("GET", f"{path}?{query}", b""), MARK, "9" * 50)


@pytest.mark.parametrize("query", EVENT_QUERIES)
def test_a_filter_that_means_nothing_never_gives_unfiltered_events(targets: Targets, query: str) -> None:
    problem = require_problem(targets.world.monitor.raw("GET", f"/v1/adverse-events?{query}", b""), MARK)
    assert all(error["pointer"].startswith("/query/") for error in problem["errors"])


NAMELESS = (
    "%00",
    MARK,
    f"{MARK}%00",
    "%ED%A0%80",
    "%FF",
    "..%2f..%2fetc",
    "99",
    "-1",
    "9223372036854775808",
    "x" * 3000,
)
PLACES = (
    *(
        "/v1/participants/{}",
        "/v1/visits/{}",
        "/v1/outcomes/{}",
        "/v1/adverse-events/{}",
        "/v1/adverse-events/{}/history",
        "/v1/dosing-sessions/{}",
        "/v1/safety-signals/{}",
    ),
    *(
        "/v1/extracts/{}",
        "/v1/extracts/{}/files/visits.csv",
        "/v1/extracts/00000000-0000-4000-8000-000000000000/files/{}",
    ),
    *("/v1/studies/{}/sites", "/v1/studies/{}/protocols", "/v1/studies/STUDY/protocols/{}", "/v1/problems/{}", "/{}"),
)


@pytest.mark.parametrize("place", PLACES)
def test_an_address_that_names_nothing_is_refused(targets: Targets, place: str) -> None:
    world = targets.world
    caller = world.analyst if "extract" in place else world.monitor
    for name in NAMELESS:
        path = place.replace("STUDY", world.study).format(name)
        assert require_problem(caller.get(path), MARK, "x" * 50)["status"] in {404, 422}, name


@pytest.mark.parametrize("name", NAMELESS)
def test_grants_for_nobody_are_refused(targets: Targets, name: str) -> None:
    body = {"role": "monitor", "study": targets.world.study}
    with nothing_kept(targets):
        for kind in ("users", "clients"):
            require_problem(targets.world.admin.post(f"/v1/{kind}/{name}/grants", body), MARK)


FORMS = (
    *({"grant_type": "client_credentials", "client_id": name, "client_secret": MARK} for name in ("\0", MARK, "é", "")),
    *({"grant_type": "refresh_token", "refresh_token": token} for token in ("\0", MARK, "", "x" * 999)),
    *({"grant_type": kind} for kind in ("", MARK, "password", "\0")),
    *({"grant_type": "client_credentials", "client_id": MARK * 200}, {MARK: MARK}, {}),
)


@pytest.mark.parametrize("form", FORMS, ids=range(len(FORMS)))
def test_a_token_request_that_means_nothing_is_refused(targets: Targets, form: dict[str, str]) -> None:
    answer = targets.world.registry.client.post("/v1/auth/token", data=form)
    assert 400 <= answer.status_code < 500, answer.text
    assert MARK not in answer.text
    assert answer.headers["content-type"] in {"application/json", "application/problem+json"}


@pytest.mark.parametrize("basic", ["", MARK, "AAAA", "ADpzZWNyZXQ=", "Og==", "/////w==", "é", "YTpi\t", "x" * 5000])
def test_client_credentials_that_are_none_are_refused(targets: Targets, basic: str) -> None:
    headers = {b"Authorization": f"Basic {basic}".encode()}
    answer = targets.world.registry.client.post(
        "/v1/auth/token", data={"grant_type": "client_credentials"}, headers=headers
    )
    assert answer.status_code in {400, 401, 422}, answer.text
    assert MARK not in answer.text


@pytest.mark.parametrize("key", ["", " ", "a b", "é", "x" * 256, "a\tb", f"{MARK} "])
def test_an_idempotency_key_is_printable_ascii(targets: Targets, key: str) -> None:
    target = targets["report_adverse_event"]
    with nothing_kept(targets):
        problem = require_problem(target.send_json(target.body, **{"Idempotency-Key": key.encode()}), MARK)
    assert problem["code"] in {"idempotency_key_missing", "validation_failed"}


@pytest.mark.parametrize("tag", ["", "*", MARK, '"0"', 'W/"0"', "é", "x" * 500])
def test_an_etag_that_nobody_gave_changes_nothing(targets: Targets, tag: str) -> None:
    target = targets["amend_visit"]
    content = b'{"reason": "typed wrongly", "occurred_on": "2025-01-26"}'
    with nothing_kept(targets):
        problem = require_problem(target.send(content, **{"If-Match": tag.encode()}), MARK)
    assert problem["status"] in {412, 422, 428}
