// Shows the steps of messages as the gateway tells them, those of one message together.
import { follow } from "./console.js";

const list = document.getElementById("steps");
const state = document.getElementById("state");
const stop = document.getElementById("stop");
const form = document.getElementById("trace");
const most = 100;
const bySeq = new Map();
let steps = 0;

const el = (tag, cls, text) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  return e;
};

const good = { matched: "good", delivered: "good", failed: "bad", refused: "bad", dropped: "bad", dead_lettered: "warn", parked: "warn", waits: "warn" };

function told(s) {
  switch (s.step) {
    case "received":
    case "refused":
      return `${s.topic}  QoS ${s.qos ?? 0}, ${s.bytes ?? 0} B`;
    case "rule":
      return s.rule;
    case "target":
      return `${s.rule}${s.target === undefined ? "" : `[${s.target}]`} to ${s.sink}`;
    case "acknowledged":
      return s.reason_code ? `reason code 0x${s.reason_code.toString(16)}` : "";
    case "dropped":
      return `${s.count} steps omitted: above the rate of a trace`;
  }
  return "";
}

function message(seq) {
  let m = seq && bySeq.get(seq);
  if (m) return m;
  const item = el("li");
  const head = el("b", "mono", seq ? `#${seq}` : "without a sequence");
  m = { item, list: el("ul", "steps") };
  item.append(head, m.list);
  list.prepend(item);
  if (seq) bySeq.set(seq, m);
  while (list.children.length > most) {
    const last = list.lastElementChild;
    for (const [k, v] of bySeq) if (v.item === last) bySeq.delete(k);
    last.remove();
  }
  return m;
}

function show(s) {
  const line = el("li");
  line.append(el("span", "faint mono", `${s.at.slice(11, 23)} `), el("b", "", s.step), ` ${told(s)} `);
  if (s.outcome) line.append(el("span", `state ${good[s.outcome] ?? ""}`, s.stage ? `${s.outcome} at ${s.stage}` : s.outcome.replace("_", "-")));
  if (s.reason) line.append(el("span", "faint", ` ${s.reason}`));
  message(s.seq).list.append(line);
  state.textContent = `${++steps} steps of ${bySeq.size} ${bySeq.size === 1 ? "message" : "messages"}.`;
}

const query = new URLSearchParams(location.search);
for (const [k, v] of [...query]) if (!v) query.delete(k);
if ([...query].length) {
  state.textContent = "Waiting for messages…";
  stop.disabled = false;
  const end = follow(`/stream/trace?${query}`, ["message"], (kind, data) => {
    if (kind === "message") show(data);
    else if (kind === "end") state.textContent += ` The gateway has ended the trace: ${data.detail}`;
    else if (data.closed) state.textContent = "The gateway does not trace this: is there such a rule, is the topic filter valid, are there too many traces?";
  });
  stop.addEventListener("click", () => {
    end();
    stop.disabled = true;
    state.textContent += " Stopped.";
  });
}
form.addEventListener("submit", () => {
  for (const input of form.querySelectorAll("input")) input.disabled = !input.value;
});
