package configs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"cellgate/test/check"
)

func noEnv(string) (string, bool) { return "", false }

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := parseEnv("/etc/cellgate/cell.yaml", []byte(text), noEnv)
	if err != nil {
		t.Fatalf("Parse: %v", err)
	}
	return c
}

func TestMinimalFileHasEveryDefault(t *testing.T) {
	t.Parallel()
	c := parse(t, "cell: {id: c1, node: n1}")
	if c.Auth.Issuer != "cellgate/c1" || c.Auth.KeysDir != "/var/lib/cellgate/auth" {
		t.Errorf("derived: issuer %q, keys_dir %q", c.Auth.Issuer, c.Auth.KeysDir)
	}
	if got := c.Listeners[0]; got.Address != ":8883" || got.TLS.Cert != "/var/lib/cellgate/tls/server.crt" {
		t.Errorf("default listener = %+v", got)
	}
	if c.Rules.Path != "/etc/cellgate/rules" {
		t.Errorf("rules.path = %q, want it beside the file", c.Rules.Path)
	}
	if c.Central != nil || c.TokenAPI != nil {
		t.Error("central and token_api are on without being written")
	}
}

// At the bound of handshakes the oldest connection is closed. A client over a poor mobile network takes a few seconds
// for TLS and CONNECT; the connections that connect_rate admits meanwhile must not push it out.
func TestAConnectStormDoesNotPushOutSlowClients(t *testing.T) {
	t.Parallel()
	const slow = 4 // seconds
	if l := Default().Limits; l.Handshakes < slow*l.ConnectRate {
		t.Errorf("limits.handshakes is %d: %d connections a second fill it in less than %d s", l.Handshakes, l.ConnectRate, slow)
	}
}

func TestCellYAMLListsTheDefaults(t *testing.T) {
	t.Parallel()
	data, err := Samples.ReadFile("cell.yaml")
	check.OK(t, err)
	sample, err := parseEnv("/etc/cellgate/cell.yaml", data, noEnv)
	check.OK(t, err)
	want := parse(t, "cell: {id: cell-sh-01, region: cn-east, node: gw-1}")
	for _, c := range Diff(want, sample) {
		t.Errorf("%s differs between cell.yaml and the default", c.Path)
	}
	var missing []string
	everyKey(reflect.TypeFor[Config](), "", func(path, key string) {
		if !bytes.Contains(data, []byte(key+":")) {
			missing = append(missing, path)
		}
	})
	if missing != nil {
		t.Errorf("cell.yaml does not show %v", missing)
	}
}

func everyKey(typ reflect.Type, path string, fn func(path, key string)) {
	for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice || typ.Kind() == reflect.Map {
		typ = typ.Elem()
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	for _, f := range fieldsOf(typ) {
		fn(join(path, f.name), f.name)
		everyKey(typ.Field(f.index).Type, join(path, f.name), fn)
	}
}

func TestTagsAreReadableAndHoldTheDefaults(t *testing.T) {
	t.Parallel()
	c := parse(t, fullFile)
	var visit func(v reflect.Value, path string)
	visit = func(v reflect.Value, path string) {
		switch v.Kind() {
		case reflect.Pointer:
			if !v.IsNil() {
				visit(v.Elem(), path)
			}
		case reflect.Slice:
			for i := range v.Len() {
				visit(v.Index(i), path)
			}
		case reflect.Struct:
			for _, f := range fieldsOf(v.Type()) {
				at, tag := join(path, f.name), f.tag
				if tag.Get("range") != "" || (tag.Get("oneof") != "" && v.Field(f.index).Kind() == reflect.String) {
					if why, _ := checkTag(v.Field(f.index), tag, ""); why != "" {
						t.Errorf("%s: %s", at, why)
					}
				}
				visit(v.Field(f.index), at)
			}
		}
	}
	visit(reflect.ValueOf(c).Elem(), "")
}

const fullFile = `
cell: {id: cell-sh-01, region: cn-east, node: gw-1}
data_dir: data
listeners:
  - {name: vehicles, address: ":8883", tls: {cert: tls/a.crt, key: /abs/a.key, client_ca: ca.crt, client_auth: optional}}
  - {name: local, address: "127.0.0.1:1883"}
  - {name: lab, address: "127.0.0.1:1884", anonymous_role: lab}
  - {name: web, address: ":8083", protocol: ws, tls: {}, proxy_from: [10.0.0.0/8]}
http: {address: ":8080", tls: {}}
token_api: {tls: {client_ca: ca.crt, client_auth: required}}
auth:
  token_ttl: 1h
  leeway: 60s
  issuers: [{issuer: x, jwks_url: "https://x/jwks", roles: [service]}]
  roles:
    lab: {publish: ["#"], subscribe: ["v1/{vin}/#"], deny_subscribe: ["test/nosubscribe"]}
uplink: {ack: journal, ack_by_class: {alarm: kafka}, window: 64, journal: {segment_bytes: 64MiB, max_bytes: 20GiB}}
limits: {max_connections: 100_000, max_packet: 256KiB, bytes_per_second: 4MiB, max_keepalive: 20m}
kafka: {brokers: ["kafka-1:9092"], tls: {}, sasl: {mechanism: scram-sha-512, user: u, password: "p$${x"}}
redis: {addresses: ["redis-1:6379"], password: hunter2, tls: {ca: ca.crt}}
rules: {path: configs/rules}
central: {kafka: {brokers: ["central-1:9092"]}, bandwidth: 20MiB/s}
`

func TestContractExample(t *testing.T) {
	t.Parallel()
	c, err := parseEnv("/etc/cellgate/cell.yaml", []byte(fullFile), noEnv)
	check.OK(t, err)
	checks := map[string][2]any{
		"data_dir":     {c.DataDir, Path("/etc/cellgate/data")},
		"cert":         {c.Listeners[0].TLS.Cert, Path("/etc/cellgate/tls/a.crt")},
		"key":          {c.Listeners[0].TLS.Key, Path("/abs/a.key")},
		"default cert": {c.Listeners[3].TLS.Cert, Path("/etc/cellgate/data/tls/server.crt")},
		"segment":      {c.Uplink.Journal.SegmentBytes, Bytes(64 << 20)},
		"keepalive":    {c.Limits.MaxKeepalive.Std(), 20 * time.Minute},
		"connections":  {c.Limits.MaxConnections, 100000},
		"ack alarm":    {c.Uplink.AckByClass["alarm"], "kafka"},
		"bandwidth":    {c.Central[0].Bandwidth, ByteRate(20 << 20)},
		"group":        {c.Central[0].Group, "cellgate-sync"},
		"password":     {c.Kafka.SASL.Password.Reveal(), "p${x"},
		"issuer aud":   {c.Auth.Issuers[0].Audience, "cell-sh-01"},
		"token_api":    {c.TokenAPI.Address, ":8443"},
		"role":         {c.Auth.Roles["lab"].DenySubscribe[0], "test/nosubscribe"},
	}
	for name, pair := range checks {
		if pair[0] != pair[1] {
			t.Errorf("%s = %v, want %v", name, pair[0], pair[1])
		}
	}
}

func TestDevYAML(t *testing.T) {
	t.Parallel()
	data, err := Samples.ReadFile("dev.yaml")
	check.OK(t, err)
	c, err := parseEnv("/tmp/d/configs/dev.yaml", data, noEnv)
	check.OK(t, err)
	if c.DataDir != "/tmp/d" || c.Rules.Path != "/tmp/d/configs/rules" || c.Listeners[0].TLS.Key != "/tmp/d/tls/server.key" {
		t.Errorf("paths: %q %q %q", c.DataDir, c.Rules.Path, c.Listeners[0].TLS.Key)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	env := func(name string) (string, bool) {
		v, ok := map[string]string{"ID": "c9", "N": "7", "EMPTY": "", "YAML": "x: [1"}[name]
		return v, ok
	}
	c, err := parseEnv("f.yaml", []byte("cell: {id: \"${ID}\", node: n, region: \"${YAML}\"}\nuplink: {window: \"${N}\"}\n"+
		"redis: {username: \"a${EMPTY}b$${ID}\"}"), env)
	check.OK(t, err)
	if c.Cell.ID != "c9" || c.Uplink.Window != 7 || c.Redis.Username != "ab${ID}" || c.Cell.Region != "x: [1" {
		t.Errorf("expanded: %+v window %d user %q", c.Cell, c.Uplink.Window, c.Redis.Username)
	}
}

// TestValuesFromFiles: a secret in a file, as Kubernetes or systemd provides it, is read from there and never printed.
func TestValuesFromFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	check.OK(t, os.WriteFile(filepath.Join(dir, "redis"), []byte("hunter2\n"), 0o600))
	check.OK(t, os.WriteFile(filepath.Join(dir, "huge"), make([]byte, maxValueFile+1), 0o600))
	write := func(value string) (*Config, error) {
		file := filepath.Join(dir, "cell.yaml")
		check.OK(t, os.WriteFile(file, []byte("cell: {id: c}\nredis: {password: \""+value+"\"}\n"), 0o600))
		return Load(file)
	}
	for _, value := range []string{"${file:redis}", "${file:" + filepath.Join(dir, "redis") + "}"} {
		c, err := write(value)
		check.OK(t, err)
		if got := c.Redis.Password.Reveal(); got != "hunter2" {
			t.Errorf("%s: %q", value, got)
		}
	}
	for value, want := range map[string]string{
		"${file:none}": "no such file or directory; name a file", "${file:huge}": "longer than 64 KiB", "${file:}": "without a variable's name", "${file:redis": "without a variable's name",
	} {
		if _, err := write(value); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", value, err, want)
		}
	}
}

func TestAnchors(t *testing.T) {
	t.Parallel()
	c := parse(t, "cell: {id: c, node: n}\nkafka: &k {brokers: [\"a:1\"], compression: lz4}\ncentral: {kafka: *k}\n")
	if c.Central[0].Kafka.Brokers[0] != "a:1" || c.Central[0].Kafka.Compression != "lz4" {
		t.Errorf("central.kafka = %+v", c.Central[0].Kafka)
	}
}

func TestPrintMasksSecretsAndReadsBack(t *testing.T) {
	t.Parallel()
	const canary = "s3cret-canary"
	text := strings.Replace(strings.Replace(fullFile, `"p$${x"`, canary, 1), "hunter2", canary, 1)
	c := parse(t, text)
	var out bytes.Buffer
	check.OK(t, Print(&out, c))
	if strings.Contains(out.String(), canary) {
		t.Fatal("the secret is printed")
	}
	again, err := parseEnv("/elsewhere/x.yaml", out.Bytes(), noEnv)
	if err != nil {
		t.Fatalf("the print does not read back: %v\n%s", err, out.String())
	}
	for _, ch := range Diff(c, again) {
		if !strings.HasSuffix(ch.Path, "password") {
			t.Errorf("%s changed on its way through the print", ch.Path)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
		if strings.Contains(fmt.Sprintf(verb, c.Redis), canary) || strings.Contains(fmt.Sprintf(verb, *c.Kafka.SASL), canary) {
			t.Errorf("%s shows the secret", verb)
		}
	}
}

func TestDiffSeparatesReloadFromRestart(t *testing.T) {
	t.Parallel()
	a := parse(t, "cell: {id: c, node: n}\nauth: {roles: {lab: {publish: [a]}}}")
	b := parse(t, "cell: {id: c, node: n}\nauth: {roles: {lab: {publish: [b]}, x: {}}}\nlimits: {max_packet: 128KiB}\n"+
		"commands: {max_payload: 64KiB}\nkafka: {brokers: [\"x:1\"]}\ncentral: {kafka: {brokers: [\"y:1\"]}}\nlog: {level: debug, format: text}")
	want := []Change{
		{"auth.roles.lab.publish[0]", false},
		{"auth.roles.x", false},
		{"commands.max_payload", true},
		{"limits.max_packet", false},
		{"kafka.brokers[0]", true},
		{"central", true},
		{"log.level", false},
		{"log.format", true},
	}
	if got := Diff(a, b); !reflect.DeepEqual(got, want) {
		t.Errorf("Diff = %v\nwant   %v", got, want)
	}
	if got := Diff(a, a); got != nil {
		t.Errorf("Diff with itself = %v", got)
	}
}

func TestLoadReadsAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "c.yaml")
	check.OK(t, os.WriteFile(file, []byte("cell: {id: c, node: n}\ndata_dir: d"), 0o600))
	c, err := Load(file)
	check.OK(t, err)
	if string(c.DataDir) != filepath.Join(dir, "d") || c.File != file {
		t.Errorf("data_dir %q, file %q", c.DataDir, c.File)
	}
	if _, err := Load(filepath.Join(dir, "absent.yaml")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"redis: {addresses: [\"r:1\"], password: x}":                                          "redis.password",
		"redis: {addresses: [\"127.0.0.1:1\"], password: x}":                                  "",
		"redis: {addresses: [\"r:1\"], password: x, tls: {}}":                                 "",
		"kafka: {brokers: [\"k:1\"], sasl: {mechanism: plain, user: u, password: p}}":         "kafka.sasl.mechanism",
		"kafka: {brokers: [\"k:1\"], sasl: {mechanism: scram-sha-256, user: u, password: p}}": "",
		"http: {address: \":1\", allow_insecure: true}":                                       "http.allow_insecure",

		"uplink: {ack: memory}": "uplink.ack",
		"listeners: [{name: a, address: \"127.0.0.1:1\", anonymous_role: vehicle}]": "listeners",
	} {
		c := parse(t, "cell: {id: c, node: n}\n"+text)
		switch {
		case want == "" && len(c.Warnings) == 0:
		case len(c.Warnings) != 1 || c.Warnings[0].Path != want || c.Warnings[0].Line != 2:
			t.Errorf("%s: warnings %v, want %q", text, c.Warnings, want)
		}
	}
}

// TestFilesOfEditors: a byte order mark, and line ends of other systems, change nothing.
func TestFilesOfEditors(t *testing.T) {
	t.Parallel()
	const text = "cell: {id: c1, node: n1}\nlimits: {max_keepalive: 5m}\n"
	want := parse(t, text)
	for name, changed := range map[string]string{"mark": "\ufeff" + text, "CRLF": strings.ReplaceAll(text, "\n", "\r\n")} {
		if got := parse(t, changed); len(Diff(want, got)) > 0 {
			t.Errorf("%s: %+v", name, Diff(want, got))
		}
	}
}

// TestNamedPipes: a pipe where a file is wanted is an error that names it, and does not hold the program.
func TestNamedPipes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe, file := filepath.Join(dir, "pipe"), filepath.Join(dir, "cell.yaml")
	check.OK(t, syscall.Mkfifo(pipe, 0o600))
	check.OK(t, os.WriteFile(file, []byte("cell: {id: c1, node: n1}\nredis: {addresses: [\"127.0.0.1:1\"], password: \"${file:pipe}\"}\n"), 0o600))
	for _, config := range []string{pipe, file} {
		if _, err := Load(config); err == nil || !strings.Contains(err.Error(), pipe) {
			t.Errorf("%s: %v", config, err)
		}
	}
}
