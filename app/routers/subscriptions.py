"""Subscriptions to notifications, and what became of the messages: for admins."""

from typing import Annotated
from uuid import UUID

from fastapi import Depends, Query, Request, Response

from app.access import Actor, narrowed, requires, visible, visible_row
from app.database import ReadSession, WriteSession, within
from app.models.account import ReasonGiven
from app.models.base import fields_of
from app.models.notification import (
    Delivery,
    DeliveryFilter,
    DeliveryList,
    DeliveryRead,
    Subscription,
    SubscriptionAmend,
    SubscriptionCreate,
    SubscriptionFilter,
    SubscriptionList,
    SubscriptionRead,
    SubscriptionWithSecret,
)
from app.pagination import Page
from app.permissions import Permission
from app.services.notifications import subscriptions
from app.services.studies import every_site, study_asked
from app.web.conditional import IfMatch, etag
from app.web.route import Router

router = Router(prefix="/v1", tags=["notifications"])
Reader = Annotated[Actor, Depends(requires(Permission.subscription_read))]
Writer = Annotated[Actor, Depends(requires(Permission.subscription_write))]


@router.get("/subscriptions")
def list_subscriptions(
    query: Annotated[SubscriptionFilter, Query()],
    actor: Reader,
    request: Request,
    response: Response,
    session: ReadSession,
) -> SubscriptionList:
    """Subscriptions of your studies and sites, newest first."""
    statement = narrowed(
        visible(subscriptions.rows(), actor), (Subscription.study_id, study_asked(session, actor, query.study))
    )
    if query.disabled is not None:
        statement = statement.where(Subscription.disabled_at.is_not(None) == query.disabled)  # type: ignore[union-attr]
    page = Page(request, response, actor, query)
    rows, after = page.read(session, statement, Subscription.created_at, Subscription.id)
    return SubscriptionList(items=[subscriptions.read(fields_of(row)) for row in rows], next=after)


@router.post("/subscriptions", status_code=201)
def subscribe(
    body: SubscriptionCreate, actor: Writer, request: Request, response: Response, session: WriteSession
) -> SubscriptionWithSecret:
    """Send a webhook or a mail address messages about events. A webhook's secret is in this answer and nowhere else."""
    state = request.app.state
    row, secret = subscriptions.subscribe(session, actor, state.keyring, state.settings, body)
    response.headers["Location"] = f"/v1/subscriptions/{row.id}"
    response.headers["ETag"] = etag(state.keyring, row.id, row.version)
    return SubscriptionWithSecret(**subscriptions.subscription_read(session, row).model_dump(), secret=secret)


@router.get("/subscriptions/{subscription_id}")
def read_subscription(
    subscription_id: UUID, actor: Reader, request: Request, response: Response, session: ReadSession
) -> SubscriptionRead:
    """One subscription, without its secret."""
    row = visible_row(session, actor, Subscription, subscription_id)
    response.headers["ETag"] = etag(request.app.state.keyring, row.id, row.version)
    return subscriptions.subscription_read(session, row)


@router.patch("/subscriptions/{subscription_id}")
def amend_subscription(
    subscription_id: UUID,
    body: SubscriptionAmend,
    actor: Writer,
    seen: IfMatch,
    request: Request,
    response: Response,
    session: WriteSession,
) -> SubscriptionRead:
    """Change the events, or disable: messages then wait until it is enabled."""
    keyring = request.app.state.keyring
    row = subscriptions.amend(session, actor, seen, subscription_id, body)
    response.headers["ETag"] = etag(keyring, row.id, row.version)
    return subscriptions.subscription_read(session, row)


@router.post("/subscriptions/{subscription_id}/secret", status_code=201)
def renew_secret(
    subscription_id: UUID, body: ReasonGiven, actor: Writer, request: Request, response: Response, session: WriteSession
) -> SubscriptionWithSecret:
    """A new secret for a webhook, shown once. All messages are signed with it from now on."""
    keyring = request.app.state.keyring
    row, secret = subscriptions.renew_secret(session, actor, keyring, subscription_id, body.reason)
    response.headers["ETag"] = etag(keyring, row.id, row.version)
    return SubscriptionWithSecret(**subscriptions.subscription_read(session, row).model_dump(), secret=secret)


@router.post("/subscriptions/{subscription_id}/test", status_code=201)
def send_test_message(subscription_id: UUID, actor: Writer, session: WriteSession) -> DeliveryRead:
    """Send a message of type `subscription.test`."""
    return subscriptions.send_test(session, actor, subscription_id)


@router.get("/deliveries")
def list_deliveries(
    query: Annotated[DeliveryFilter, Query()], actor: Reader, request: Request, response: Response, session: ReadSession
) -> DeliveryList:
    """Messages and whether they arrived, newest first; `state=dead` are those given up after the last attempt."""
    asked = ((Delivery.state, query.state), (Delivery.subscription_id, query.subscription))
    statement = narrowed(visible(subscriptions.delivery_rows(), actor), *asked)
    page = Page(request, response, actor, query)
    with within(session, every_site(session)):
        rows, after = page.read(session, statement, Delivery.created_at, Delivery.id)
    return DeliveryList(items=[subscriptions.delivery_read(fields_of(row)) for row in rows], next=after)


@router.post("/deliveries/{delivery_id}/replay", status_code=201)
def replay_delivery(delivery_id: UUID, body: ReasonGiven, actor: Writer, session: WriteSession) -> DeliveryRead:
    """Send a message that was delivered, is dead or was dismissed again. It keeps its delivery id."""
    return subscriptions.replay(session, actor, delivery_id, body.reason)


@router.post("/deliveries/{delivery_id}/dismissal", status_code=201)
def dismiss_delivery(delivery_id: UUID, body: ReasonGiven, actor: Writer, session: WriteSession) -> DeliveryRead:
    """Say of a dead message that nobody needs it any more: it is kept, and neither `registry doctor` nor an alert asks
    for it."""
    return subscriptions.dismiss(session, actor, delivery_id, body.reason)
