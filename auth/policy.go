package auth

import (
	"crypto/rand"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"cellgate/broker/shared/message"
)

// maxRoleFilters bounds each list of a role, because every PUBLISH searches it.
const maxRoleFilters = 64

var roleName = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)

// RolePolicy is a configured role: topic filters in which {vin} or {name} stands for the token's subject. What no
// filter grants is denied; a deny overrides a grant.
//
// Subscribe and DenySubscribe are about topics, not about filters: a subscription is accepted if one grant covers it
// completely and no deny does. A message whose topic matches a deny is not delivered even if a wider subscription was
// accepted.
type RolePolicy struct {
	Publish       []string
	Subscribe     []string
	DenyPublish   []string
	DenySubscribe []string
	// AssignedClientID lets the server assign a bearer's client identifier.
	AssignedClientID bool
	// Commands limits the commands that bearers may send, among those that Publish grants.
	Commands CommandLimit
}

// ValidateRole checks a configured role. The error has every problem, one per line, each prefixed by the field's path
// below the role, as in "publish[0]: …".
func ValidateRole(name string, r RolePolicy) error {
	_, err := compileRole(name, r)
	return err
}

func compileRole(name string, r RolePolicy) (*roleGrants, error) {
	var errs []error
	switch {
	case name == RoleVehicle || name == RoleService || name == RoleOperator:
		errs = append(errs, fmt.Errorf("role %q is built in and cannot be redefined", name))
	case !roleName.MatchString(name):
		errs = append(errs, fmt.Errorf("role name %q must match [a-z][a-z0-9_-]{0,31}", name))
	}
	list := func(field string, filters []string) []grant {
		if len(filters) > maxRoleFilters {
			errs = append(errs, fmt.Errorf("%s: more than %d filters", field, maxRoleFilters))
			return nil
		}
		grants := make([]grant, len(filters))
		for i, f := range filters {
			var err error
			if grants[i], err = compileGrant(f); err != nil {
				errs = append(errs, fmt.Errorf("%s[%d]: %q: %w", field, i, f, err))
			}
		}
		return grants
	}
	c := &roleGrants{
		publish:       list("publish", r.Publish),
		subscribe:     list("subscribe", r.Subscribe),
		denyPublish:   list("deny_publish", r.DenyPublish),
		denySubscribe: list("deny_subscribe", r.DenySubscribe),
		share:         true,
		assigned:      r.AssignedClientID,
	}
	c.mark()
	if err := r.Commands.check(); err != nil {
		errs = append(errs, err)
	}
	return c, errors.Join(errs...)
}

// roleGrants is a compiled role. It is immutable and shared by all its bearers, except if it has templates, which are
// expanded for each.
type roleGrants struct {
	publish, subscribe         []grant
	denyPublish, denySubscribe []grant
	share                      bool // shared subscriptions are allowed
	assigned                   bool // the server may assign the client identifier
	placeholders               bool // the subject occurs in a grant
	templates                  bool // expand is needed
}

func (r *roleGrants) mark() {
	for _, list := range [...][]grant{r.publish, r.subscribe, r.denyPublish, r.denySubscribe} {
		for _, g := range list {
			r.templates = r.templates || g.template != ""
			r.placeholders = r.placeholders || g.template != "" || g.bySubject
		}
	}
}

func (r *roleGrants) expand(subject string) *roleGrants {
	if !r.templates {
		return r
	}
	list := func(in []grant) []grant {
		out := make([]grant, len(in))
		for i, g := range in {
			out[i] = g.expand(subject)
		}
		return out
	}
	return &roleGrants{
		publish: list(r.publish), subscribe: list(r.subscribe),
		denyPublish: list(r.denyPublish), denySubscribe: list(r.denySubscribe),
		share: r.share, assigned: r.assigned, placeholders: r.placeholders,
	}
}

// builtin compiles constant filters of this package. own is set for a role whose topics belong to the subject alone.
func builtin(own bool, publish, subscribe []string) *roleGrants {
	r := &roleGrants{share: !own, assigned: !own}
	for _, f := range publish {
		g, _ := compileGrant(f) // valid: TestBuiltinGrants
		r.publish = append(r.publish, g)
	}
	for _, f := range subscribe {
		g, _ := compileGrant(f)
		r.subscribe = append(r.subscribe, g)
	}
	r.mark()
	return r
}

// policy is an immutable snapshot of all roles.
type policy struct {
	vehicle *roleGrants
	// byScope holds the grants of services and operators, indexed by the set of those scopes that grant topics.
	byScope [8]*roleGrants
	custom  map[string]*roleGrants
	// commands are the limits of the configured roles.
	commands map[string]CommandLimit
	lists    vinLists
}

// Bits of policy.byScope.
const (
	bitTelemetryRead = 1 << iota
	bitCommandSend
	bitCommandRead
)

func newPolicy(roles map[string]RolePolicy, lists map[string][]string) (*policy, error) {
	sets, err := newVINLists(lists)
	if err != nil {
		return nil, fmt.Errorf("lists of VINs: %w", err)
	}
	p := &policy{
		commands: make(map[string]CommandLimit, len(roles)), lists: sets,
		// A vehicle's commands and notices are for it alone, so sharing them is denied. Its client identifier is its
		// VIN, so none is assigned.
		vehicle: builtin(true,
			[]string{"v1/{vin}/up/#", "v1/{vin}/res/+/+", "v1/{vin}/token"},
			[]string{"v1/{vin}/cmd/#", "v1/{vin}/sys/#"}),
		custom: make(map[string]*roleGrants, len(roles)),
	}
	for set := range p.byScope {
		var publish, subscribe []string
		if set&bitTelemetryRead != 0 {
			subscribe = append(subscribe, "v1/+/up/#")
		}
		if set&bitCommandSend != 0 {
			publish = append(publish, "v1/+/cmd/+/+")
		}
		if set&bitCommandRead != 0 {
			subscribe = append(subscribe, "v1/+/res/#")
		}
		p.byScope[set] = builtin(false, publish, subscribe)
	}
	var errs []error
	for name, r := range roles {
		c, err := compileRole(name, r)
		if err != nil {
			errs = append(errs, fmt.Errorf("role %s: %w", name, err))
		}
		p.custom[name], p.commands[name] = c, r.Commands
		if list := sets.unknown(&r.Commands); list != "" {
			errs = append(errs, fmt.Errorf("role %s: there is no list of VINs %q", name, list))
		}
	}
	return p, errors.Join(errs...)
}

func (p *policy) known(role string) bool {
	switch role {
	case RoleVehicle, RoleService, RoleOperator:
		return true
	}
	_, ok := p.custom[role]
	return ok
}

// grants returns the compiled grants of an identity, never nil.
func (p *policy) grants(id *Identity) *roleGrants {
	switch id.Role {
	case RoleVehicle:
		return p.vehicle
	case RoleService, RoleOperator:
		set := 0
		for _, s := range id.Scopes {
			switch s {
			case ScopeTelemetryRead:
				set |= bitTelemetryRead
			case ScopeCommandSend:
				set |= bitCommandSend
			case ScopeCommandRead:
				set |= bitCommandRead
			}
		}
		return p.byScope[set]
	}
	if c := p.custom[id.Role]; c != nil {
		return c
	}
	return p.byScope[0] // grants nothing
}

// Permissions decides what one identity may do over MQTT. It is immutable and safe for concurrent use. Its methods do
// not allocate, except for ClientID's error and NewClientID. The zero value allows nothing.
//
// One rule overrides every role: v1/{x}/token carries secrets. Only subject x may publish it, and nobody can subscribe
// to it or receive it.
type Permissions struct {
	role    *roleGrants
	subject string
	kind    Role
	custom  bool
	limit   *senderLimit // of commands; nil means none
}

func newPermissions(p *policy, id *Identity) *Permissions {
	g := p.grants(id)
	custom := p.custom[id.Role] != nil
	if g.placeholders && ValidSubject(id.Subject) != nil {
		g = p.byScope[0]
	}
	return &Permissions{role: g.expand(id.Subject), subject: id.Subject, kind: id.Role, custom: custom, limit: p.limitOf(id)}
}

// Publish reports whether the identity may publish, or set a will, on a topic name. A topic alias must have been
// resolved.
func (p *Permissions) Publish(topic string) bool {
	if !p.Granted(topic) {
		return false
	}
	if p.limit == nil {
		return true
	}
	vin, branch, rest := message.SplitTopic(topic)
	_, name, _ := strings.Cut(rest, "/")
	return branch != "cmd" || p.limit.allows(vin, name)
}

// Granted is like Publish, but ignores the command limits.
func (p *Permissions) Granted(topic string) bool {
	if p.role == nil || topic == "" || topic[0] == '$' || strings.IndexByte(topic, '+') >= 0 || strings.IndexByte(topic, '#') >= 0 {
		return false
	}
	if owner, ok := tokenTopic(topic); ok && owner != p.subject {
		return false
	}
	return anyMatch(p.role.publish, topic, p.subject) && !anyMatch(p.role.denyPublish, topic, p.subject)
}

// Command reports whether the identity's limits allow a command to a vehicle, by any entrance. Whether it may send
// commands at all is decided by Granted or the scope.
func (p *Permissions) Command(vin, name string) bool { return p.limit.allows(vin, name) }

// Respond reports whether the outcome of the identity's commands may be published on a topic: one that it may receive,
// and that cannot be mistaken for a vehicle's message or a command.
func (p *Permissions) Respond(topic string) bool {
	if message.ValidTopic(topic) != nil {
		return false
	}
	switch _, branch, rest := message.SplitTopic(topic); branch {
	case "up", "cmd", "sys", "token":
		return false
	case "res":
		switch _, status, _ := strings.Cut(rest, "/"); status {
		case "accepted", "succeeded", "failed", "rejected":
			return false
		}
	}
	return p.Receive(topic)
}

// Subscribe reports whether the identity may subscribe to a filter, including $share/{group}/…. A single grant must
// cover a wildcard filter completely.
func (p *Permissions) Subscribe(filter string) bool {
	if p.role == nil || message.ValidFilter(filter) != nil {
		return false
	}
	_, plain, shared := message.SplitShare(filter)
	if shared && !p.role.share {
		return false
	}
	// A second $share after $share/{group}/ is not sharing but a topic that begins with '$'.
	if plain[0] == '$' || message.Covers("v1/+/token", plain) {
		return false
	}
	return anyCovers(p.role.subscribe, plain, p.subject) && !anyCovers(p.role.denySubscribe, plain, p.subject)
}

// Withheld reports whether the role grants a filter that Subscribe refuses because of a deny.
func (p *Permissions) Withheld(filter string) bool {
	if p.role == nil || message.ValidFilter(filter) != nil {
		return false
	}
	_, plain, _ := message.SplitShare(filter)
	return anyCovers(p.role.subscribe, plain, p.subject) && anyCovers(p.role.denySubscribe, plain, p.subject)
}

// Receive reports whether the identity may receive a message on a topic name. It is called for every delivery, live,
// retained, queued or resumed, because the identity may differ from the one that subscribed.
func (p *Permissions) Receive(topic string) bool {
	if p.role == nil || topic == "" || topic[0] == '$' {
		return false
	}
	if _, ok := tokenTopic(topic); ok {
		return false
	}
	return anyMatch(p.role.subscribe, topic, p.subject) && !anyMatch(p.role.denySubscribe, topic, p.subject)
}

func tokenTopic(topic string) (owner string, ok bool) {
	vin, branch, rest := message.SplitTopic(topic)
	return vin, branch == "token" && rest == ""
}

// ClientID checks whether the identity may use a client identifier. A vehicle's is its VIN; others use their name or
// name/…. An identifier that is a VIN is reserved for that vehicle. The empty identifier is refused: see
// AssignedClientID.
func (p *Permissions) ClientID(id string) error {
	switch {
	case id == "":
		return fmt.Errorf("%w: empty", errClientID)
	case p.kind == RoleVehicle:
		if id != p.subject {
			return fmt.Errorf("%w: a vehicle's is its VIN", errClientID)
		}
	case looksLikeVIN(id):
		return fmt.Errorf("%w: a VIN belongs to that vehicle", errClientID)
	case p.subject == "":
		return fmt.Errorf("%w: no subject", errClientID)
	case id != p.subject && (len(id) <= len(p.subject) || id[:len(p.subject)] != p.subject || id[len(p.subject)] != '/'):
		return fmt.Errorf("%w: use the subject or subject/…", errClientID)
	}
	return nil
}

// Username checks the user name of CONNECT. If a vehicle sends one, it must be its VIN. Others may send any.
func (p *Permissions) Username(name string) error {
	if p.kind == RoleVehicle && name != "" && name != p.subject {
		return fmt.Errorf("%w: a vehicle's is its VIN", errUsername)
	}
	return nil
}

// AssignedClientID reports whether the server may assign the identity's client identifier: for services and operators
// yes, for vehicles no, for configured roles as configured.
func (p *Permissions) AssignedClientID() bool { return p.role != nil && p.role.assigned }

// NewClientID returns an unguessable client identifier that ClientID accepts, for a client that left it to the server.
func (p *Permissions) NewClientID() string {
	if p.subject == "" || p.custom {
		return "auto-" + rand.Text()
	}
	return p.subject + "/" + rand.Text()
}
