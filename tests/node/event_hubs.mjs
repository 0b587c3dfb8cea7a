// Drives the JavaScript SDK against the hub whose connection string is in EVENT_HUB: sends, then subscribes from the
// start until everything came back, and prints what it saw as one line of JSON. Says nothing else on stdout.
import { EventHubConsumerClient, EventHubProducerClient, earliestEventPosition } from "@azure/event-hubs";

const connectionString = process.env.EVENT_HUB;
const expected = 6;
// A refusal is to be seen at once, not after four tries.
const options = { retryOptions: { maxRetries: 0 } };

async function produce() {
  const producer = new EventHubProducerClient(connectionString, options);
  try {
    const batch = await producer.createBatch({ partitionKey: "key-1" });
    for (let n = 0; n < 4; n++) {
      if (!batch.tryAdd({ body: { n }, contentType: "application/json", properties: { n, text: "ü" } })) {
        throw new Error("the batch is full");
      }
    }
    await producer.sendBatch(batch);
    await producer.sendBatch([{ body: "pinned" }], { partitionId: "3" });
    await producer.sendBatch([{ body: Buffer.from([0, 255]) }], { partitionId: "3" });
    return await producer.getEventHubProperties();
  } finally {
    await producer.close();
  }
}

async function consume() {
  const consumer = new EventHubConsumerClient("$Default", connectionString, options);
  const received = [];
  try {
    await new Promise((resolve, reject) => {
      consumer.subscribe(
        {
          processEvents: async (events, context) => {
            received.push(...events.map((event) => described(event, context)));
            if (received.length >= expected) resolve();
          },
          processError: async (error) => reject(error),
        },
        { startPosition: earliestEventPosition, trackLastEnqueuedEventProperties: true, maxWaitTimeInSeconds: 1 },
      );
    });
    return { received, partition: await consumer.getPartitionProperties("3") };
  } finally {
    await consumer.close();
  }
}

function described(event, context) {
  return {
    partition: context.partitionId,
    body: Buffer.isBuffer(event.body) ? { base64: event.body.toString("base64") } : event.body,
    contentType: event.contentType,
    properties: event.properties,
    partitionKey: event.partitionKey,
    sequenceNumber: event.sequenceNumber,
    offset: event.offset,
    enqueued: event.enqueuedTimeUtc,
    lastSequenceNumber: context.lastEnqueuedEventProperties?.sequenceNumber,
  };
}

const hub = await produce();
process.stdout.write(JSON.stringify({ hub, ...(await consume()) }) + "\n");
