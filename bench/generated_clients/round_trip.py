"""Token, enrolment, visit, and the visit read back, by the client that openapi-python-client generated.

Address, client, secret, study and site come from the command line. Runs in an environment of its own.
"""

import sys
from datetime import date
from uuid import UUID, uuid4

from research_registry_client import AuthenticatedClient, Client
from research_registry_client.api.participants import enrol
from research_registry_client.api.sign_in import issue_token
from research_registry_client.api.visits import read_visit, record_visit
from research_registry_client.models import (
    ConsentGiven,
    Eligibility,
    IssueTokenBody,
    OutcomeInVisit,
    ParticipantCreate,
    ParticipantRead,
    Problem,
    Sex,
    TokenRead,
    VisitCreate,
    VisitDetail,
)

url, client_id, client_secret, study, site = sys.argv[1:]

form = IssueTokenBody(grant_type="client_credentials", client_id=client_id, client_secret=client_secret)
token = issue_token.sync(client=Client(base_url=url), body=form)
assert isinstance(token, TokenRead), token
registry = AuthenticatedClient(base_url=url, token=token.access_token)

enrolment = ParticipantCreate(
    study=study,
    site=site,
    site_local_id="PY-1",
    age_at_consent=41,
    sex=Sex.F,
    screened_on=date(2025, 1, 2),
    enrolled_on=date(2025, 1, 20),
    eligibility=Eligibility(met=True),
    consent=ConsentGiven.from_dict({"version": "1", "given_on": "2025-01-02", "scopes": ["main"]}),
)
person = enrol.sync(client=registry, body=enrolment, idempotency_key=str(uuid4()))
assert isinstance(person, ParticipantRead), person

items = {"SDS_01": 7, "SDS_02": 8, "SDS_03": 6}
visit = VisitCreate.from_dict(
    {"participant": person.pid, "visit_code": "BL", "occurred_on": "2025-01-25", "status": "completed"}
)
visit.outcomes = [OutcomeInVisit.from_dict({"instrument": "SHEEHAN_SDS", "items": items})]
key = str(uuid4())  # drawn when the person acts, the same for each try
made = record_visit.sync(client=registry, body=visit, idempotency_key=key)
assert isinstance(made, VisitDetail), made
again = record_visit.sync_detailed(client=registry, body=visit, idempotency_key=key)
assert again.headers["Idempotent-Replayed"] == "true"

read = read_visit.sync(made.id, client=registry)
assert isinstance(read, VisitDetail), read
assert read.outcomes[0].scores[0].value == 21

refused = read_visit.sync(UUID(int=0), client=registry)
assert isinstance(refused, Problem)
assert refused.code == "not_found"
print(f"Python: visit {read.id} of {read.participant}, total {read.outcomes[0].scores[0].value}")
