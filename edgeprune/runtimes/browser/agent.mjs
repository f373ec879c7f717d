// The agent's twin for browsers (see edgeprune/runtimes/agent): the same jobs, the same answers.
// The page that holds it is served with COOP and COEP headers, so threads and fine clocks are allowed.
import * as ort from "./ort/ort.wasm.min.mjs";

const WARM_UP_WINDOWS = 40;
const SETTLED = 0.1;
const MIN_TURNS = 16;
const TIMED_BATCHES = 16;

const MIN_RUNS = 3;
const ROUNDS = 3;
const ROUND_MS = 8;
const LAYOUT = ["ReorderInput", "ReorderOutput"];

class JobError extends Error {}

// onnxruntime-web writes its trace to the console, an event a line; nothing else can read it.
const printed = [];
const say = console.log.bind(console);
console.log = (...words) => {
  if (typeof words[0] === "string" && words[0].startsWith('{"cat"')) printed.push(words[0]);
  else say(...words);
};

// Element types: onnxruntime-web's name → [typed array, numpy's name].
const KINDS = {
  float32: [Float32Array, "<f4"],
  float64: [Float64Array, "<f8"],
  int64: [BigInt64Array, "<i8"],
  int32: [Int32Array, "<i4"],
  uint8: [Uint8Array, "|u1"],
  bool: [Uint8Array, "|b1"],
};
const ARRAYS = Object.fromEntries(Object.values(KINDS).map(([array, name]) => [name, array]));

async function main() {
  const job = await (await fetch("job.json")).json();
  const result = { status: "ok", reason: "", kind: job.kind, warnings: [] };
  const models = {};
  try {
    result.files = {};
    for (const name of Object.keys(job.files)) {
      models[name] = new Uint8Array(await (await fetch(name)).arrayBuffer());
      result.files[name] = await sha256(models[name]);
    }
    Object.assign(result, await work(job, models));
  } catch (error) {
    result.status = "unavailable";
    result.reason = error instanceof JobError ? error.message : `${error.name ?? "Error"}: ${error.message ?? error}`;
  }
  await post("result", JSON.stringify(result));
}

async function work(job, models) {
  const asked = job.runtime;
  if (asked.provider !== "wasm") {
    throw new JobError(`a browser cannot tell where nodes run, so only the provider 'wasm' can be trusted, not ${asked.provider}`);
  }
  const threads = asked.intra || navigator.hardwareConcurrency;
  if (threads > 1 && !globalThis.crossOriginIsolated) {
    throw new JobError("this browser does not isolate the page, so there are no threads; set [threads] intra = 1");
  }
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = new URL("ort/", location.href).href;
  const kinds = { probe, outputs, pairs, times, trace, layers };
  if (!(job.kind in kinds)) throw new JobError(`a '${job.kind}' job cannot be done in a browser`);
  const done = await kinds[job.kind](job, models);
  const environment = {
    onnxruntime: ort.env.versions.web ?? ort.env.versions.common,
    browser: navigator.userAgent,
    cores: navigator.hardwareConcurrency,
    threads,
    isolated: globalThis.crossOriginIsolated,
  };
  const told = Object.keys(done.placement ?? {}).length > 0 || ["pairs", "times"].includes(job.kind);
  const warnings = told ? [] : ["this browser does not tell where nodes run; only wasm was listed"];
  return { environment, placement: {}, warnings, ...done };
}

// ------------------------------------------------------------------------------------- sessions

async function session(job, models, path, more = {}) {
  const data = Object.entries(models)
    .filter(([name]) => name === `${path}.data`)
    .map(([name, bytes]) => ({ path: name.split("/").pop(), data: bytes }));
  return ort.InferenceSession.create(models[path], {
    executionProviders: ["wasm"],
    graphOptimizationLevel: job.runtime.optimization,
    ...more,
    ...(data.length ? { externalData: data } : {}),
  });
}

async function probe(job) {
  const source = new Uint8Array(await (await fetch("probe.onnx")).arrayBuffer());
  const one = { x: new ort.Tensor("float32", new Float32Array(1), [1]) };
  return { placement: placed(await events(job, { probe: source }, "probe", () => one, 1)) };
}

function fixedBatch(made, asked) {
  const first = made.inputMetadata[0].shape[0];
  return typeof first === "number" && first > 0 ? first : asked;
}

// ---------------------------------------------------------------------------------------- trace

// Where and how long each node ran, in `runs` runs of a session of its own, or as many as fit until `deadline`.
async function events(job, models, path, fed, runs, deadline = Infinity) {
  const made = await session(job, models, path, { enableProfiling: true });
  const inputs = fed(made);
  printed.length = 0;
  let done = 0;
  while (done < Math.min(runs, MIN_RUNS) || (done < runs && performance.now() < deadline)) {
    await made.run(inputs);
    done += 1;
  }
  made.endProfiling();
  await new Promise((later) => setTimeout(later)); // the console is written to before this page goes on
  await made.release();
  const nodes = printed
    .map((line) => JSON.parse(line.replace(/,\s*$/, "")))
    .filter((event) => event.cat === "Node" && event.name.endsWith("_kernel_time"))
    .map(({ name, ts, dur, args }) => ({
      name: name.slice(0, -"_kernel_time".length),
      operation: args.op_name ?? "",
      provider: args.provider === "CPUExecutionProvider" ? "wasm" : args.provider ?? "", // wasm calls itself that
      ts,
      dur,
    }));
  printed.length = 0;
  return { nodes, runs: done };
}

function byName(nodes) {
  const found = new Map();
  for (const node of nodes) found.set(node.name, [...(found.get(node.name) ?? []), node]);
  return found;
}

function placed({ nodes }) {
  const found = {};
  for (const [first] of byName(nodes).values()) found[first.provider] = (found[first.provider] ?? 0) + 1;
  return found;
}

async function trace(job, models) {
  const inputs = await readInputs();
  const fed = (made) => feed(made, inputs, 0, fixedBatch(made, job.batch));
  const runs = Math.max(job.pairs, MIN_RUNS);
  const seen = await events(job, models, job.models.model, fed, runs, performance.now() + job.launch_s * 1e3);
  if (!seen.nodes.length) throw new JobError("this onnxruntime-web writes no trace to the console");
  const operations = [...byName(seen.nodes).values()].map((node) => {
    const each = node.length >= seen.runs ? Math.floor(node.length / seen.runs) : 0;
    const later = node.sort((a, b) => a.ts - b.ts).slice(each); // the first run holds what is done once
    const us = later.reduce((sum, one) => sum + one.dur, 0) / Math.max(seen.runs - 1, 1);
    return { name: node[0].name, operation: node[0].operation, provider: node[0].provider, us };
  });
  operations.sort((a, b) => b.us - a.us);
  return { placement: placed(seen), runs: seen.runs, operations };
}

// Milliseconds of each of many tiny models on random inputs: the least of the rounds' means of the quicker half.
async function layers(job, models) {
  const random = mulberry32(job.seed);
  const ms = {};
  let placement = {};
  for (let round = 0; round < ROUNDS; round++) {
    for (const name of shuffled(Object.keys(job.models), random)) {
      const fed = (made) => noise(made, random);
      const deadline = performance.now() + ROUND_MS;
      const seen = await events(job, models, job.models[name], fed, 1000, deadline);
      if (!seen.nodes.length) throw new JobError("this onnxruntime-web writes no trace to the console");
      placement = placed(seen);
      let took = 0;
      for (const node of byName(seen.nodes).values()) {
        if (LAYOUT.includes(node[0].operation)) continue;
        const quick = node.map((one) => one.dur).sort((a, b) => a - b).slice(0, Math.ceil(node.length / 2));
        took += quick.reduce((sum, us) => sum + us, 0) / quick.length / 1e3;
      }
      ms[name] = Math.min(took, ms[name] ?? Infinity);
    }
  }
  return { placement, ms };
}

function noise(made, random) {
  return Object.fromEntries(
    made.inputMetadata.map(({ name, shape }) => {
      const values = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => 2 * random() - 1);
      return [name, new ort.Tensor("float32", values, shape)];
    })
  );
}

// --------------------------------------------------------------------------------------- inputs

async function readInputs() {
  const described = await (await fetch("inputs.json")).json();
  return Promise.all(
    described.map(async ({ dtype, shape }, i) => {
      if (!(dtype in ARRAYS)) throw new JobError(`input ${i} holds ${dtype}, which is not supported`);
      const values = new ARRAYS[dtype](await (await fetch(`inputs/${i}`)).arrayBuffer());
      return { values, shape, size: shape.slice(1).reduce((a, b) => a * b, 1) };
    })
  );
}

// The samples from `start` on under the model's names and types; the last sample fills a batch up.
function feed(made, inputs, start, size) {
  const wanted = made.inputMetadata;
  if (wanted.length !== inputs.length) {
    const names = wanted.map((i) => i.name).join(", ");
    throw new JobError(`the model takes ${wanted.length} inputs (${names}), ${inputs.length} were given`);
  }
  return Object.fromEntries(
    wanted.map(({ name, type }, i) => {
      if (!(type in KINDS)) throw new JobError(`input '${name}' is ${type}, which is not supported`);
      const { values, shape, size: step } = inputs[i];
      const part = new KINDS[type][0](size * step);
      for (let k = 0; k < size; k++) {
        const from = Math.min(start + k, shape[0] - 1) * step;
        part.set(converted(values.subarray(from, from + step), KINDS[type][0], name), k * step);
      }
      return [name, new ort.Tensor(type, part, [size, ...shape.slice(1)])];
    })
  );
}

function converted(values, kind, name) {
  if (values instanceof kind) return values;
  const whole = kind !== Float32Array && kind !== Float64Array;
  return kind.from(values, (value) => {
    if (whole && typeof value === "number" && !Number.isInteger(value)) {
      throw new JobError(`input '${name}' takes whole numbers, ${value} was given`);
    }
    return kind === BigInt64Array ? BigInt(value) : Number(value);
  });
}

// -------------------------------------------------------------------------------------- outputs

async function outputs(job, models) {
  const inputs = await readInputs();
  let started = performance.now();
  const made = await session(job, models, job.models.model);
  const load_ms = performance.now() - started;
  const one = feed(made, inputs, 0, fixedBatch(made, job.batch));
  started = performance.now();
  await made.run(one);
  const first_ms = performance.now() - started;
  const peak_mb = await peak();

  const size = fixedBatch(made, job.batch_outputs);
  const total = inputs[0].shape[0];
  const collected = made.outputNames.map(() => null);
  for (let start = 0; start < total; start += size) {
    const real = Math.min(size, total - start);
    const found = await made.run(feed(made, inputs, start, size));
    made.outputNames.forEach((name, i) => {
      const { data, dims, type } = found[name];
      if (dims[0] !== size) {
        throw new JobError(`output '${name}' is (${dims.join(", ")}); its first axis must be the batch (${size})`);
      }
      if (!(type in KINDS)) throw new JobError(`output '${name}' is ${type}, which is not supported`);
      const step = data.length / size;
      collected[i] ??= { dtype: KINDS[type][1], shape: [total, ...dims.slice(1)], values: new KINDS[type][0](total * step) };
      collected[i].values.set(data.subarray(0, real * step), start * step);
    });
  }
  for (let i = 0; i < collected.length; i++) await post(`outputs/${i}`, collected[i].values);
  const arrays = collected.map(({ dtype, shape }) => ({ dtype, shape }));
  const placement = placed(await events(job, models, job.models.model, () => one, 1));
  return { placement, load_ms, first_ms, peak_mb, arrays, outputs: made.outputNames };
}

// -------------------------------------------------------------------------------------- latency

async function pairs(job, models) {
  const random = mulberry32(job.seed);
  const arms = { pairs: ["original", "pruned"], control: ["original", "original"] };
  const seats = shuffled(Object.keys(arms).flatMap((arm) => [`${arm}-0`, `${arm}-1`]), random);
  const inputs = await readInputs();
  const runs = {};
  let size = 0;
  for (const seat of seats) {
    const [arm, side] = seat.split("-");
    const made = await session(job, models, job.models[arms[arm][side]]);
    size ||= fixedBatch(made, job.batch);
    runs[seat] = timedRuns(made, inputs, size);
  }
  const runMs = async (seat, turn) => {
    const run = runs[seat][turn % runs[seat].length];
    await run();
    const started = performance.now();
    await run();
    return performance.now() - started;
  };
  const deadline = performance.now() + job.launch_s * 1e3;
  const { warm_up, settled } = await warmUp(runMs, seats, job.warm_up, performance.now() + job.launch_s * 500);
  const taken = { pairs: [], control: [] };
  let turn = 0;
  while (taken.pairs.length < job.pairs && (turn < MIN_TURNS || performance.now() < deadline)) {
    for (const arm of shuffled(Object.keys(arms), random)) {
      const first = random() < 0.5 ? 0 : 1;
      for (const side of [first, 1 - first]) {
        const took = [0, 0];
        took[side] = await runMs(`${arm}-${side}`, turn);
        took[1 - side] = await runMs(`${arm}-${1 - side}`, turn);
        taken[arm].push(took);
        turn += 1;
      }
    }
  }
  return { order: seats, batch: size, warm_up, settled, ...taken };
}

async function times(job, models) {
  const inputs = await readInputs();
  const started = performance.now();
  const made = await session(job, models, job.models.model);
  const load_ms = performance.now() - started;
  const size = fixedBatch(made, job.batch);
  const runs = timedRuns(made, inputs, size);
  const runMs = async (_, turn) => {
    const begun = performance.now();
    await runs[turn % runs.length]();
    return performance.now() - begun;
  };
  const first_ms = await runMs(null, 0);
  const deadline = performance.now() + job.launch_s * 1e3;
  const { warm_up, settled } = await warmUp(runMs, ["model"], job.warm_up, performance.now() + job.launch_s * 500);
  const steady = [];
  while (steady.length < job.pairs && (steady.length < MIN_TURNS || performance.now() < deadline)) {
    steady.push(await runMs(null, steady.length));
  }
  return { load_ms, first_ms, warm_up, settled, batch: size, steady, peak_mb: await peak() };
}

function timedRuns(made, inputs, size) {
  const starts = [];
  for (let at = 0; at < inputs[0].shape[0] && starts.length < TIMED_BATCHES; at += size) starts.push(at);
  return starts.map((at) => {
    const fed = feed(made, inputs, at, size);
    return () => made.run(fed);
  });
}

async function warmUp(runMs, seats, window, deadline) {
  let before = null;
  let done = 0;
  while (done < WARM_UP_WINDOWS) {
    const medians = {};
    for (const seat of seats) {
      const taken = [];
      for (let turn = 0; turn < window; turn++) taken.push(await runMs(seat, turn));
      medians[seat] = taken.sort((a, b) => a - b)[Math.floor(window / 2)];
    }
    done += 1;
    if (before && seats.every((seat) => Math.abs(medians[seat] / before[seat] - 1) <= SETTLED)) {
      return { warm_up: done * window, settled: true };
    }
    before = medians;
    if (performance.now() > deadline) break;
  }
  return { warm_up: done * window, settled: false };
}

// ----------------------------------------------------------------------------------- small things

function mulberry32(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}

function shuffled(items, random) {
  const result = [...items];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

async function sha256(bytes) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

async function peak() {
  return (await (await fetch("peak")).json()).peak_mb;
}

async function post(name, body) {
  const answer = await fetch(name, { method: "POST", body });
  if (!answer.ok) throw new JobError(`${name} was not taken: ${answer.status}`);
}

main();
