"""An MQTT client made of paho-mqtt, for the tests in ../clients_*_test.go.

It is given a job as JSON (the type `job` of the tests) and prints what happens as one JSON line per event. It
stays until its standard input ends, then it disconnects.
"""

import json
import sys
import threading

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

job = json.loads(sys.argv[1])
v5 = job["version"] == 5
waiting = {}  # by packet identifier: the QoS of a PUBLISH, None for a SUBSCRIBE
leaving = False


def tell(event, **fields):
    print(json.dumps({"event": event, **fields}), flush=True)


def reference(properties):
    return getattr(properties, "ServerReference", "")


def on_connect(client, _userdata, flags, reason, properties):
    if reason.is_failure:
        tell("refused", code=reason.value, reference=reference(properties))
        return
    tell("connected", code=reason.value, present=flags.session_present, address=job["address"])
    waiting.clear()
    if job["subscribe"]:
        _, mid = client.subscribe([(s["filter"], s["qos"]) for s in job["subscribe"]])
        waiting[mid] = None
    for m in job["publish"]:
        waiting[client.publish(m["topic"], m["payload"], m["qos"]).mid] = m["qos"]
    leave_when_done(client)


def on_subscribe(client, _userdata, mid, reasons, _properties):
    waiting.pop(mid)
    tell("subscribed", codes=[r.value for r in reasons])
    leave_when_done(client)


def on_publish(client, _userdata, mid, reason, _properties):
    tell("published", code=reason.value, qos=waiting.pop(mid))
    leave_when_done(client)


def on_message(_client, _userdata, m):
    tell("message", topic=m.topic, payload=m.payload.decode(), qos=m.qos)


def on_disconnect(client, _userdata, _flags, reason, properties):
    if leaving:
        tell("left")
        return
    elsewhere = reference(properties)
    tell("ended", code=reason.value if v5 else 0, reference=elsewhere)
    if job["second"]:
        job["address"] = elsewhere or job["second"]
        connect(client.connect_async)  # loop_forever goes there


def leave_when_done(client):
    if not job["stay"] and not waiting:
        leave(client)


def leave(client):
    global leaving
    leaving = True
    client.disconnect()


def leave_at_end_of_input(client):
    sys.stdin.read()
    leave(client)


def connect(how):
    host, port = job["address"].rsplit(":", 1)
    options = {}
    if v5:
        options = {"clean_start": job["clean"], "properties": Properties(PacketTypes.CONNECT)}
        options["properties"].SessionExpiryInterval = 0 if job["clean"] else 300
    how(host, int(port), keepalive=30, **options)


def main():
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=job["client_id"],
        clean_session=None if v5 else job["clean"],
        protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
        transport="websockets" if job["transport"] == "wss" else "tcp",
        reconnect_on_failure=bool(job["second"]),
    )
    client.on_connect = on_connect
    client.on_subscribe = on_subscribe
    client.on_publish = on_publish
    client.on_message = on_message
    client.on_disconnect = on_disconnect
    client.tls_set(job["ca"])
    client.ws_set_options("/mqtt")
    client.username_pw_set(job["user"], job["password"])
    if job["will"]:
        client.will_set(job["will"]["topic"], job["will"]["payload"], job["will"]["qos"])
    connect(client.connect)
    threading.Thread(target=leave_at_end_of_input, args=[client], daemon=True).start()
    client.loop_forever()


main()
