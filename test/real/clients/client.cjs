// An MQTT client made of MQTT.js, for the tests in ../clients_*_test.go.
//
// It is given a job as JSON (the type `job` of the tests) and prints what happens as one JSON line per event. It
// stays until its standard input ends, then it disconnects.
"use strict";

const fs = require("node:fs");
const mqtt = require("mqtt");

const job = JSON.parse(process.argv[2]);
let unacknowledged = 0;
let refused = false;
let leaving = false;
let told = null; // the server's DISCONNECT

function tell(event, fields) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + "\n");
}

function where(address) {
  const [host, port] = address.split(":");
  return { host, hostname: host, port: Number(port) };
}

const client = mqtt.connect({
  ...where(job.address),
  protocol: job.transport === "wss" ? "wss" : "mqtts",
  path: "/mqtt",
  ca: fs.readFileSync(job.ca),
  protocolVersion: job.version,
  clientId: job.client_id,
  username: job.user,
  password: job.password,
  clean: job.clean,
  properties: job.version === 5 ? { sessionExpiryInterval: job.clean ? 0 : 300 } : undefined,
  will: job.will ? { ...job.will, payload: Buffer.from(job.will.payload) } : undefined,
  keepalive: 30,
  reconnectPeriod: 0, // reconnect below decides where to
  resubscribe: false,
});

client.on("packetreceive", (p) => {
  if (p.cmd !== "connack") return;
  const code = p.reasonCode ?? p.returnCode;
  if (code === 0) return;
  refused = true;
  tell("refused", { code, reference: p.properties?.serverReference });
});

client.on("connect", (connack) => {
  tell("connected", { code: connack.reasonCode ?? connack.returnCode, present: connack.sessionPresent, address: job.address });
  unacknowledged = job.subscribe.length + job.publish.length;
  for (const s of job.subscribe) {
    client.subscribe(s.filter, { qos: s.qos }, (err, granted) => {
      tell("subscribed", { codes: err ? [err.code ?? 128] : granted.map((g) => g.qos) });
      done();
    });
  }
  for (const m of job.publish) {
    client.publish(m.topic, m.payload, { qos: m.qos }, (err) => {
      tell("published", { code: err ? err.code : 0, qos: m.qos });
      done();
    });
  }
});

client.on("message", (topic, payload, packet) => {
  tell("message", { topic, payload: payload.toString(), qos: packet.qos });
});

client.on("disconnect", (packet) => {
  told = packet;
});

client.on("close", () => {
  if (leaving || refused) return;
  const reference = told?.properties?.serverReference ?? "";
  tell("ended", { code: told?.reasonCode ?? 0, reference });
  if (!job.second) process.exit(0);
  told = null;
  job.address = reference || job.second;
  Object.assign(client.options, where(job.address));
  client.reconnect();
});

client.on("error", (err) => {
  if (refused) process.exit(0);
  tell("failed", { why: String(err) });
});

function done() {
  if (--unacknowledged === 0 && !job.stay) leave();
}

function leave() {
  leaving = true;
  client.end(false, () => {
    tell("left");
    process.exit(0);
  });
}

process.stdin.resume();
process.stdin.on("end", leave);
