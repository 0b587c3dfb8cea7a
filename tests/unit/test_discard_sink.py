from structlog.testing import capture_logs

from tests.deliveries import delivery_of
from worker.sinks.discard import DiscardSettings, DiscardSink


async def test_it_accepts_without_a_word():
    with capture_logs() as lines:
        await DiscardSink(DiscardSettings(name="nowhere")).deliver(delivery_of())
    assert not lines


def test_its_preview_names_the_event_that_nobody_will_see():
    delivery = delivery_of()
    shown = DiscardSink(DiscardSettings(name="nowhere")).preview(delivery)
    assert shown == f"nowhere discards id=e1 key={delivery.idempotency_key}"
