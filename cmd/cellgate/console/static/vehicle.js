// The live messages of one vehicle, the newest first. The page's own stream (data-stream) keeps its other parts up to date;
// this one is shared with it by the browser's limit of connections only while somebody looks.
import { follow, refresh, calmly } from "./console.js";

const list = document.getElementById("messages");
const state = document.getElementById("live-state");
const most = 50;
let seen = 0;

function show(m) {
  const item = document.createElement("li");
  const head = document.createElement("div");
  head.className = "faint";
  head.textContent = `${m.received_at.slice(11, 23)}  ${m.topic}  QoS ${m.qos}, ${m.bytes} B`;
  const body = document.createElement("code");
  body.textContent = m.payload !== undefined ? JSON.stringify(m.payload) : m.payload_text ?? `base64: ${m.payload_base64 ?? ""}`;
  if (m.cut) body.textContent += " …";
  item.append(head, body);
  list.prepend(item);
  while (list.children.length > most) list.lastElementChild.remove();
  state.textContent = `${++seen} since this page was opened, the newest ${Math.min(seen, most)} below.`;
}

const soon = calmly(refresh, 500);
if (list) {
  follow(`/stream/vehicles/${encodeURIComponent(list.dataset.vin)}/events`, ["message", "presence", "command"], (kind, data) => {
    if (kind === "message") show(data);
    else if (kind === "end") state.textContent = `The gateway has ended the stream: ${data.detail}`;
    else if (kind !== "error") soon();
  });
}
