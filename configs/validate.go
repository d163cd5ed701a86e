package configs

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"

	"cellgate/auth"
	"cellgate/broker/shared/message"
)

// checker runs the checks that involve more than one key.
type checker struct {
	cfg *Config
	d   *decoder
}

// problem reports a problem of a key.
func (k *checker) problem(path, why, fix string) {
	k.d.problems = append(k.d.problems, k.at(path, why, fix))
}

// at returns a problem at the place of its key, or of its nearest parent in the file.
func (k *checker) at(path, why, fix string) Problem {
	p := Problem{File: k.d.file, Line: 1, Col: 1, Path: path, Why: why, Fix: fix}
	for above := path; ; above = above[:strings.LastIndexAny(above, ".[")] {
		if found, ok := k.d.places[above]; ok {
			p.Line, p.Col = found.line, found.col
			return p
		}
		if !strings.ContainsAny(above, ".[") {
			return p
		}
	}
}

// failed reports whether path already has a problem, so that one mistake gives one message.
func (k *checker) failed(path string) bool {
	return slices.ContainsFunc(k.d.problems, func(p Problem) bool {
		return p.Path == path || strings.HasPrefix(p.Path, path+".") || strings.HasPrefix(p.Path, path+"[")
	})
}

// sound reports whether none of the paths has a problem: a conflict with a value that is itself wrong is not reported.
func (k *checker) sound(paths ...string) bool { return !slices.ContainsFunc(paths, k.failed) }

func (k *checker) all() {
	k.cell()
	k.listeners()
	k.http()
	k.auth()
	k.roles()
	k.vinLists()
	k.uplink()
	k.commands()
	k.kafka("kafka", &k.cfg.Kafka)
	k.redis()
	k.webhooks()
	k.topic("rules.error_topic", k.cfg.Rules.ErrorTopic)
	k.hashKeys()
	k.central()
	k.tracing()
	for i, class := range k.cfg.Metrics.Classes {
		k.class(fmt.Sprintf("metrics.classes[%d]", i), class)
	}
	k.warnings()
}

func nameRE() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`) }

func (k *checker) cell() {
	c := k.cfg.Cell
	switch {
	case k.failed("cell"):
	case c.ID == "":
		k.problem("cell.id", "is required", "write cell: {id: cell-sh-01}, the cell's name in tokens, records and metrics")
	case !nameRE().MatchString(c.ID):
		k.problem("cell.id", fmt.Sprintf("%q is not a name", c.ID), "use letters, digits, '.', '_' and '-', at most 64, such as cell-sh-01")
	}
	if !k.failed("cell.node") && !nameRE().MatchString(c.Node) {
		k.problem("cell.node", fmt.Sprintf("%q is not a name", c.Node), "use letters, digits, '.', '_' and '-', at most 64, such as gw-1")
	}
	switch {
	case !k.sound("cell.gateways", "cell.join_key"):
	case c.Several() && c.JoinKey == "":
		k.problem("cell.join_key", "is missing although cell.gateways is several",
			"name a file with the same secret at every gateway, for example of openssl rand -hex 32")
	case !c.Several() && c.JoinKey != "":
		k.problem("cell.join_key", "is set although cell.gateways is single", "remove it, or write cell.gateways: several at every gateway")
	}
	if k.cfg.DataDir == "" {
		k.problem("data_dir", "is empty", "name a folder, such as /var/lib/cellgate")
	}
}

func (k *checker) listeners() {
	if len(k.cfg.Listeners) == 0 && !k.failed("listeners") {
		k.problem("listeners", "there is no listener", "add one, such as {name: vehicles, address: \":8883\", tls: {cert: …, key: …}}")
	}
	seen := map[string]int{}
	taken := map[string]string{}
	for i := range k.cfg.Listeners {
		l, path := &k.cfg.Listeners[i], fmt.Sprintf("listeners[%d]", i)
		if first, dup := seen[l.Name]; dup && l.Name != "" {
			k.problem(path+".name", fmt.Sprintf("%q is already the name of listeners[%d]", l.Name, first), "give every listener a name of its own")
		} else {
			seen[l.Name] = i
		}
		k.listener(path, l)
		k.taken(taken, path+".address", l.Address)
	}
	k.taken(taken, "http.address", k.cfg.HTTP.Address)
	if k.cfg.TokenAPI != nil {
		k.taken(taken, "token_api.address", k.cfg.TokenAPI.Address)
	}
}

func (k *checker) listener(path string, l *Listener) {
	if !nameRE().MatchString(l.Name) {
		k.problem(path+".name", fmt.Sprintf("%q is not a name", l.Name), "name the listener, such as vehicles")
	}
	local, ok := k.address(path+".address", l.Address)
	switch {
	case !ok:
	case l.TLS == nil && !local && !k.failed(path+".tls"):
		k.problem(path+".address", "plain MQTT is for loopback only, tokens would cross the network unencrypted",
			"add tls: {cert: …, key: …}, or use 127.0.0.1")
	case l.AnonymousRole != "" && !local:
		k.problem(path+".anonymous_role", "clients without a token are admitted on loopback only",
			"remove anonymous_role, or use address 127.0.0.1")
	}
	switch l.AnonymousRole {
	case "":
	case "service", "operator":
		k.problem(path+".anonymous_role", l.AnonymousRole+" needs a token", "write vehicle, or a role of auth.roles")
	default:
		k.role(path+".anonymous_role", l.AnonymousRole)
	}
	if l.Protocol == "ws" && !strings.HasPrefix(l.Path, "/") {
		k.problem(path+".path", fmt.Sprintf("%q is not an HTTP path", l.Path), "begin it with '/', such as /mqtt")
	}
	for i, network := range l.ProxyFrom {
		if _, err := netip.ParsePrefix(network); err != nil {
			k.problem(fmt.Sprintf("%s.proxy_from[%d]", path, i), fmt.Sprintf("%q is not a network", network), "write it like 10.0.0.0/8")
		}
	}
	k.serverTLS(path+".tls", l.TLS)
}

// taken reports two listeners with the same address. Port 0 means any free port.
func (k *checker) taken(taken map[string]string, path, address string) {
	_, port, err := net.SplitHostPort(address)
	if err != nil || port == "0" {
		return
	}
	if first, dup := taken[address]; dup {
		k.problem(path, fmt.Sprintf("%s is already the address of %s", address, first), "choose another port")
		return
	}
	taken[address] = path
}

// address checks host:port and reports whether it is on loopback.
func (k *checker) address(path, address string) (local, ok bool) {
	if k.failed(path) {
		return false, false
	}
	host, port, err := net.SplitHostPort(address)
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n > 65535 {
		k.problem(path, fmt.Sprintf("%q is not an address", address), "write host:port, such as \":8883\" or \"127.0.0.1:1883\"")
		return false, false
	}
	return isLoopback(host), true
}

// isLoopback reports whether host is localhost or a loopback IP address. Other names are not resolved and do not count.
func isLoopback(host string) bool {
	ip := net.ParseIP(strings.TrimSuffix(host, "."))
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

func (k *checker) serverTLS(path string, t *ServerTLS) {
	if t == nil {
		return
	}
	if (t.Cert == "") != (t.Key == "") {
		k.problem(path, "cert and key go together, one is missing", "write both, or neither for {data_dir}/tls/server.crt and server.key")
	}
	switch {
	case t.ClientAuth == "none" && t.ClientCA != "":
		k.problem(path+".client_auth", "is none although client_ca is set", "write optional or required, or remove client_ca")
	case t.ClientAuth != "none" && t.ClientCA == "" && !k.failed(path+".client_auth"):
		k.problem(path+".client_ca", "is missing although client_auth is "+t.ClientAuth, "name the PEM file of the clients' certificate authorities")
	}
}

func (k *checker) http() {
	h := &k.cfg.HTTP
	local, ok := k.address("http.address", h.Address)
	if ok && !local && h.TLS == nil && !h.AllowInsecure && !k.failed("http.tls") {
		k.problem("http.address", "the API is off loopback without TLS, tokens would cross the network unencrypted",
			"add tls: {cert: …, key: …}, use 127.0.0.1, or set http.allow_insecure: true behind a proxy that terminates TLS")
	}
	k.serverTLS("http.tls", h.TLS)
	t := k.cfg.TokenAPI
	if t == nil {
		return
	}
	local, ok = k.address("token_api.address", t.Address)
	if ok && !local && t.TLS == nil && !k.failed("token_api.tls") {
		k.problem("token_api.tls", "is required: vehicles prove themselves by their client certificate",
			"add tls: {cert: …, key: …, client_ca: …, client_auth: required}")
	}
	k.serverTLS("token_api.tls", t.TLS)
}

func (k *checker) auth() {
	a := &k.cfg.Auth
	if a.TokenTTL > a.MaxTokenTTL {
		k.problem("auth.token_ttl", fmt.Sprintf("%v is longer than auth.max_token_ttl (%v)", a.TokenTTL, a.MaxTokenTTL), "lower it, or raise max_token_ttl")
	}
	seen := map[string]bool{a.Issuer: true}
	for i, x := range a.Issuers {
		path := fmt.Sprintf("auth.issuers[%d]", i)
		switch {
		case x.Issuer == "":
			k.problem(path+".issuer", "is required", "write the tokens' iss")
		case seen[x.Issuer]:
			k.problem(path+".issuer", fmt.Sprintf("%q is an issuer already", x.Issuer), "name every issuer once, and not the cell's own")
		}
		seen[x.Issuer] = true
		if (x.JWKSFile == "") == (x.JWKSURL == "") {
			k.problem(path, "needs its keys from one place", "write either jwks_file or jwks_url")
		}
		k.jwksURL(path+".jwks_url", x.JWKSURL)
		if len(x.Roles) == 0 {
			k.problem(path+".roles", "is empty: no token of this issuer would be accepted", "list the roles that it may grant, such as [service]")
		}
		for j, r := range x.Roles {
			k.role(fmt.Sprintf("%s.roles[%d]", path, j), r)
		}
	}
}

func (k *checker) jwksURL(path, text string) {
	if text == "" {
		return
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || (u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u.Hostname()))) {
		k.problem(path, "is not an https address", "write https://host/path; http is for loopback only")
		return
	}
	if u.User != nil {
		k.problem(path, "holds a login", "write https://host/path: a key set is public")
	}
}

// builtinRoles returns the roles that every cell has.
func builtinRoles() []string { return []string{"vehicle", "service", "operator"} }

// role checks that a role exists.
func (k *checker) role(path, name string) {
	known := builtinRoles()
	for r := range k.cfg.Auth.Roles {
		known = append(known, r)
	}
	sort.Strings(known)
	if !slices.Contains(known, name) && !k.failed("auth.roles") {
		k.problem(path, fmt.Sprintf("there is no role %q", name), suggestOne(name, known)+", or define it in auth.roles")
	}
}

func (k *checker) roles() {
	for name, r := range k.cfg.Auth.Roles {
		path := join("auth.roles", name)
		if slices.Contains(builtinRoles(), name) {
			k.problem(path, "is built in and cannot be redefined", "choose another name")
		}
		k.filters(path+".publish", r.Publish)
		k.filters(path+".subscribe", r.Subscribe)
		k.filters(path+".deny_publish", r.DenyPublish)
		k.filters(path+".deny_subscribe", r.DenySubscribe)
		if !k.failed(path) {
			k.compiles(path, name, r)
		}
	}
}

// compiles reports the errors that auth finds in a role, so that a file that passes config check also starts.
func (k *checker) compiles(path, name string, r Role) {
	k.knownLists(path+".command_vins", r.CommandVINs)
	err := auth.ValidateRole(name, auth.RolePolicy{
		Commands: auth.CommandLimit{Names: r.CommandNames, VINs: r.CommandVINs}, Publish: r.Publish, Subscribe: r.Subscribe, DenyPublish: r.DenyPublish, DenySubscribe: r.DenySubscribe,
	})
	if err == nil {
		return
	}
	for line := range strings.Lines(err.Error()) {
		at, why, field := strings.Cut(strings.TrimSpace(line), ": ")
		if !field || strings.ContainsRune(at, ' ') {
			at, why = "", strings.TrimSpace(line)
		}
		k.problem(strings.TrimSuffix(path+"."+at, "."), why, "see auth/README.md for what a role can say")
	}
}

// vinLists checks the VIN lists and the lists that commands from Kafka are limited to.
func (k *checker) vinLists() {
	for name, vins := range k.cfg.Auth.VINLists {
		path := join("auth.vin_lists", name)
		if err := auth.ValidListName(name); err != nil {
			k.problem(path, err.Error(), "choose another name")
		}
		for i, vin := range vins {
			if err := auth.ValidSubject(vin); err != nil {
				k.problem(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("%q is not a VIN: %v", vin, err), "write a VIN")
			}
		}
	}
	c := &k.cfg.Commands
	k.knownLists("commands.from_kafka_vins", c.FromKafkaVINs)
	role := auth.RolePolicy{Commands: auth.CommandLimit{Names: c.FromKafkaNames, VINs: c.FromKafkaVINs}}
	if err := auth.ValidateRole("kafka", role); err != nil {
		for line := range strings.Lines(err.Error()) {
			at, why, _ := strings.Cut(strings.TrimSpace(line), ": ")
			k.problem(strings.Replace(at, "command_", "commands.from_kafka_", 1), why, "write names of commands, and VINs or @list")
		}
	}
}

// knownLists checks that the VIN lists named in vins exist.
func (k *checker) knownLists(path string, vins []string) {
	for i, vin := range vins {
		if name, list := strings.CutPrefix(vin, "@"); list && k.cfg.Auth.VINLists[name] == nil {
			k.problem(fmt.Sprintf("%s[%d]", path, i), fmt.Sprintf("there is no list of VINs %q", name), "define it in auth.vin_lists")
		}
	}
}

func (k *checker) filters(path string, filters []string) {
	for i, f := range filters {
		at := fmt.Sprintf("%s[%d]", path, i)
		plain := strings.NewReplacer("{vin}", "x", "{name}", "x").Replace(f)
		if _, _, shared := message.SplitShare(f); shared {
			k.problem(at, fmt.Sprintf("%q: a permission names topics, not a share group", f), "write the filter without $share/{group}/")
			continue
		}
		if err := message.ValidFilter(plain); err != nil {
			k.problem(at, fmt.Sprintf("%q is not a topic filter: %v", f, err), "write a filter such as v1/{vin}/up/#")
			continue
		}
		if strings.ContainsAny(plain, "{}") {
			k.problem(at, fmt.Sprintf("%q has an unknown placeholder", f), "use {vin} or {name}, which stand for the token's subject")
		}
	}
}
