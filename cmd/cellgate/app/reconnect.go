package app

import (
	"encoding/json"
	"errors"
	"log/slog"
	"time"

	"cellgate/broker/session"
	"cellgate/broker/shared/message"
)

// A DISCONNECT of MQTT 5 can tell a vehicle where to connect; MQTT 3.1.1 cannot. A vehicle that subscribed to its
// v1/{vin}/sys topics gets a notice there before it is disconnected, in either version.

// reconnectNotice is the payload of v1/{vin}/sys/reconnect.
type reconnectNotice struct {
	Endpoint string `json:"endpoint"`
	Reason   string `json:"reason"` // drain, administrative or shutdown
}

// noticeLife is how long a notice may wait in a vehicle's send window. A later one would reach another connection.
const noticeLife = 5 * time.Second

// sendAway ends a client's connection. With an endpoint, a vehicle gets the notice first. It reports whether the client
// was connected.
func (a *gateway) sendAway(client string, code byte, endpoint, reason string) bool {
	if endpoint != "" {
		a.point(client, endpoint, reason)
	}
	why := session.ReasonAdmin
	switch {
	case reason == "drain":
		why = session.ReasonDrain
	case endpoint != "":
		why = session.ReasonMoved
	}
	return a.sessions.Disconnect(client, code, endpoint, why)
}

// point publishes the notice to one vehicle if it subscribes.
func (a *gateway) point(vin, endpoint, reason string) {
	payload, err := json.Marshal(reconnectNotice{endpoint, reason})
	if err == nil {
		err = a.sessions.Deliver(vin, &message.Delivery{
			Topic: "v1/" + vin + "/sys/reconnect", Payload: payload, Life: noticeLife,
			Props: message.Properties{ContentType: "application/json"},
		})
	}
	if err != nil && !errors.Is(err, session.ErrNotSubscribed) {
		a.log.Debug("reconnect notice not delivered", slog.String("vin", vin), slog.Any("err", err))
	}
}

// pointAll publishes the notice to every connected vehicle; without an endpoint it does nothing.
func (a *gateway) pointAll(endpoint, reason string) {
	if endpoint == "" {
		return
	}
	for after := ""; ; {
		found := a.sessions.List(after, maxPage)
		if len(found) == 0 {
			return
		}
		for i := range found {
			after = found[i].Key
			if found[i].Vehicle && found[i].Connected {
				a.point(after, endpoint, reason)
			}
		}
	}
}
