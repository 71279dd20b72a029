"""This project with its traces and metrics, by OpenTelemetry's SDK with exporters that drop all."""

from dataclasses import replace

from bench.peers import INSIDE, asynctasq

PEER = replace(
    asynctasq.PEER,
    name="with OpenTelemetry",
    requirements=(
        *asynctasq.PEER.requirements,
        "{project}/packages/asynctasq-opentelemetry",
        "opentelemetry-sdk==1.45.1",
    ),
    worker=tuple(text.replace(asynctasq.__name__, __name__) for text in asynctasq.PEER.worker),
    settings="each call and run traced and measured, exporters that drop all",
    environment={"ASYNCTASQ_PLUGINS": "sqlalchemy,django,tortoise,opentelemetry"},
)

if INSIDE:
    from collections.abc import Sequence

    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import (
        MetricExporter,
        MetricExportResult,
        MetricsData,
        PeriodicExportingMetricReader,
    )
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

    Producer = asynctasq.Producer

    class NoSpans(SpanExporter):
        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    class NoMetrics(MetricExporter):
        def export(
            self, metrics_data: MetricsData, timeout_millis: float = 0, **more: object
        ) -> MetricExportResult:
            return MetricExportResult.SUCCESS

        def force_flush(self, timeout_millis: float = 0) -> bool:
            return True

        def shutdown(self, timeout_millis: float = 0, **more: object) -> None: ...

    traces = TracerProvider()
    traces.add_span_processor(BatchSpanProcessor(NoSpans()))
    trace.set_tracer_provider(traces)
    metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(NoMetrics())]))
