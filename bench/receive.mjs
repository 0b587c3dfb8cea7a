// The JavaScript SDK's bare loop, as a contestant: what bench/receivers.py does in Python, and prints the same line.
// BENCH_PREFETCH: so many events are asked for ahead, and bodies are left as bytes; without it, the SDK's defaults.
import { createRequire } from "node:module";

const require = createRequire(new URL("../tests/node/package.json", import.meta.url));
const { EventHubConsumerClient, earliestEventPosition } = require("@azure/event-hubs");

const expected = Number(process.env.BENCH_EVENTS);
const prefetch = Number(process.env.BENCH_PREFETCH ?? 0);
const options = prefetch ? { prefetchCount: prefetch, maxBatchSize: 300, skipParsingBodyAsJson: true } : {};

const consumer = new EventHubConsumerClient(process.env.BENCH_GROUP, process.env.EVENTHUB_CONNECTION_STRING);
const last = new Map();
let count = 0;
let began;
let cpuBefore;
let ended;
let cpu;

await new Promise((resolve, reject) => {
  // The first partition starts the clocks: what the SDK decodes ahead of a batch is work, too.
  const processInitialize = async () => {
    began ??= performance.now();
    cpuBefore ??= process.cpuUsage();
  };
  const processEvents = async (events, context) => {
    if (events.length === 0) return;
    count += events.length;
    last.set(context.partitionId, events[events.length - 1].sequenceNumber);
    if (count >= expected) {
      ended = performance.now();
      cpu = process.cpuUsage(cpuBefore);
      resolve();
    }
  };
  consumer.subscribe(
    { processInitialize, processEvents, processError: async (error) => reject(error) },
    { startPosition: earliestEventPosition, ...options },
  );
});
await consumer.close();

const behind = [...last.values()].reduce((sum, number) => sum + number + 1, 0);
if (count !== expected || behind !== expected) throw new Error(`${count} events, ${behind} passed, not ${expected}`);
const seen = { seconds: (ended - began) / 1000, cpu_seconds: (cpu.user + cpu.system) / 1e6 };
process.stdout.write(JSON.stringify(seen) + "\n");
process.exit(0);
