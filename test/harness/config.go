package harness

import (
	"strings"
	"testing"

	"cellgate/test/check"
)

// WriteConfig writes the configuration of a gateway on free ports whose Kafka and Redis are away. The sections in text
// replace those of the same name, or are added.
func WriteConfig(t testing.TB, file, text string) {
	t.Helper()
	names, all := sections(`cell: {id: cell-1, node: gw-1}
data_dir: state
listeners: [{name: local, address: "127.0.0.1:0"}]
http: {address: "127.0.0.1:0"}
kafka: {brokers: ["` + FreeAddr(t) + `"], timeout: 1s}
redis: {addresses: ["` + FreeAddr(t) + `"], timeout: 1s}
rules: {path: rules, watch: false}
`)
	added, own := sections(text)
	for _, name := range added {
		if all[name] == "" {
			names = append(names, name)
		}
		all[name] = own[name]
	}
	var b strings.Builder
	for _, name := range names {
		b.WriteString(all[name])
	}
	check.Write(t, file, b.String())
}

// sections splits YAML text at the keys that begin a line.
func sections(text string) (names []string, byName map[string]string) {
	byName = map[string]string{}
	for line := range strings.Lines(text) {
		if key, _, found := strings.Cut(line, ":"); found && !strings.ContainsAny(line[:1], " #-}") {
			names = append(names, key)
		}
		byName[names[len(names)-1]] += strings.TrimSuffix(line, "\n") + "\n"
	}
	return names, byName
}
