"""Traces for the operator's collector, where it asks for them: which route was taken, how long its parts took, how it
ended. Nothing else leaves: the framework's spans also hold addresses and query strings, and with them pids.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext, Status, get_current_span

from app.errors import CannotGoOn
from app.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider

TOLD = frozenset(
    {
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "code.function.name",
        "error.type",
        "network.protocol.version",
        "url.scheme",
    }
)
"""The attributes that a span may have; new ones of the framework are dropped until they are added here."""


class TracingUnavailable(CannotGoOn):
    """Traces are configured, but the packages that send them are not installed."""


def provider(settings: Settings) -> "TracerProvider | None":
    """Sends spans by OTLP over HTTP, in the background; those that the collector does not take are dropped. The
    OpenTelemetry variables for the rest (`OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`) hold. None where nobody
    asked. Raises TracingUnavailable."""
    if settings.traces_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise TracingUnavailable(
            "REGISTRY_TRACES_ENDPOINT needs the package's extra `tracing`: install it, or unset the variable."
        ) from None

    class Exporter(OTLPSpanExporter):
        def export(self, spans: Sequence["ReadableSpan"]) -> Any:
            return super().export([bare(span) for span in spans])

    traced = TracerProvider(resource=Resource.create({SERVICE_NAME: "research-registry"}))
    traced.add_span_processor(BatchSpanProcessor(Exporter(endpoint=settings.traces_endpoint)))
    return traced


def bare(span: "ReadableSpan") -> "ReadableSpan":
    """The same span with the allowed attributes only. Trace state, events, links and messages are free text and are
    dropped."""
    from opentelemetry.sdk.trace import ReadableSpan

    return ReadableSpan(
        name=span.name,
        context=_plain(span.context),
        parent=_plain(span.parent),
        resource=span.resource,
        attributes={name: value for name, value in (span.attributes or {}).items() if name in TOLD},
        kind=span.kind,
        status=Status(span.status.status_code),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _plain(context: SpanContext | None) -> SpanContext | None:
    if context is None:
        return None
    return SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)


def named() -> dict[str, str]:
    """The trace id of the request, for its log line, if it has one."""
    context = get_current_span().get_span_context()
    return {"trace": f"{context.trace_id:032x}"} if context.is_valid else {}
