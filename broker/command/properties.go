package command

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"cellgate/broker/shared/message"
)

// properties accompany a command that came by MQTT 5. They are on disk as JSON: never reuse a name.
type properties struct {
	User        []message.UserProperty `json:"user,omitempty"`
	Correlation []byte                 `json:"correlation,omitempty"`
	// Correlated distinguishes an empty Correlation from none.
	Correlated  bool   `json:"correlated,omitempty"`
	ContentType string `json:"content_type,omitempty"`
	// ResponseTopic is not sent to the vehicle: the gateway publishes the command's outcomes there.
	ResponseTopic string `json:"response_topic,omitempty"`
}

// User properties with a meaning. The gateway always sends its own to the vehicle, and never a sender's of these names.
const (
	userIssuedAt  = "issued-at"
	userExpiresAt = "expires-at"
	userUrgent    = "urgent" // "true" or "false"; it reaches the vehicle like others
)

// propertiesOf copies the properties that are sent to the vehicle.
func propertiesOf(p *message.Properties) properties {
	c := (&message.Record{Props: *p}).Clone()
	user := slices.DeleteFunc(c.Props.User, func(u message.UserProperty) bool { return u.Name == userIssuedAt || u.Name == userExpiresAt })
	for i := range user {
		user[i] = message.UserProperty{Name: strings.Clone(user[i].Name), Value: strings.Clone(user[i].Value)} // they alias the packet
	}
	return properties{
		User: user, Correlation: c.Props.Correlation, Correlated: p.Correlation != nil,
		ContentType: strings.Clone(p.ContentType), ResponseTopic: strings.Clone(p.ResponseTopic),
	}
}

func (p *properties) empty() bool { return p.size() == 0 && !p.Correlated }

// size returns the bytes that the properties add to a command.
func (p *properties) size() int {
	n := len(p.Correlation) + len(p.ContentType) + len(p.ResponseTopic)
	for _, u := range p.User {
		n += len(u.Name) + len(u.Value)
	}
	return n
}

// urgent parses the user property "urgent".
func (p *properties) urgent() (bool, error) {
	urgent := false
	for _, u := range p.User {
		switch {
		case u.Name != userUrgent:
		case u.Value == "true" || u.Value == "false":
			urgent = u.Value == "true"
		default:
			return false, fmt.Errorf(`%w: the user property urgent is "true" or "false"`, errInvalid)
		}
	}
	return urgent, nil
}

// deliver adds p to the properties sent to the vehicle.
func (p *properties) deliver(to *message.Properties) {
	to.User = append(to.User, p.User...)
	if p.Correlated {
		to.Correlation = append([]byte{}, p.Correlation...)
	}
	if p.ContentType != "" {
		to.ContentType = p.ContentType
	}
}

// properties loads a command's properties.
func (t *tables) properties(r *record) (p properties, err error) {
	if !r.Props {
		return p, nil
	}
	if err := json.Unmarshal(t.props().Get(key(r.Seq)), &p); err != nil {
		return p, fmt.Errorf("properties of command %s: %w", r.ID, err)
	}
	return p, nil
}
