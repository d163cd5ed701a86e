package configs

import (
	"fmt"
	"strings"
	"testing"
)

// TestMalformedSecretsAreNotShown: no message and no output repeats an unquoted secret, whatever YAML parses it as.
func TestMalformedSecretsAreNotShown(t *testing.T) {
	t.Parallel()
	const canary = "hunTer2"
	forms := []string{
		"*hunTer2", "!hunTer2", "!hunTer2 x", "&hunTer2", "&hunTer2 {a: b}", "{hunTer2: x}", "[hunTer2]", "[hunTer2", "{hunTer2", `"hunTer2`, "'hunTer2",
		"@hunTer2", "`hunTer2", "%hunTer2", "hunTer2: x", "x: hunTer2", "|hunTer2", ">hunTer2", "? hunTer2", "- hunTer2", `"hunTer2\q"`, "\thunTer2",
		"x\nhunTer2", "\n      hunTer2: [", "a, hunTer2: [", "x}hunTer2", "${hunTer2", "${hun-hunTer2}", "hunTer2\n  password: x",
		"!!binary hunTer2", "<<: *hunTer2", "'a'hunTer2", `"a"hunTer2`, "]hunTer2", ",hunTer2", "#\n   - hunTer2",
	}
	sections := []string{
		"kafka: {brokers: [\"k:9092\"], sasl: {mechanism: plain, user: u, password: %s}}\n",
		"kafka:\n  brokers: [\"k:9092\"]\n  sasl:\n    mechanism: plain\n    user: u\n    password: %s\n",
		"redis:\n  addresses: [\"r:6379\"]\n  password: %s\n  sentinel_password: x\n",
	}
	for _, section := range sections {
		for _, form := range forms {
			file := "cell: {id: c}\n" + fmt.Sprintf(section, form)
			c, err := Parse("cell.yaml", []byte(file))
			var shown strings.Builder
			if err != nil {
				shown.WriteString(err.Error())
			} else if err := Print(&shown, c); err != nil {
				t.Fatal(err)
			}
			if strings.Contains(shown.String(), canary) {
				t.Errorf("%q\nshows the secret:\n%s", file, shown.String())
			}
		}
	}
}

// TestSecretsInAddressesAreNotShown: a URL with a password instead of an address is not printed.
func TestSecretsInAddressesAreNotShown(t *testing.T) {
	t.Parallel()
	for _, section := range []string{
		`redis: {addresses: ["redis://user:hunTer2@r:6379"]}`,
		`redis: {addresses: ["user:hunTer2@r:6379"]}`,
		`kafka: {brokers: ["sasl://user:hunTer2@k:9092"]}`,
		`kafka: {brokers: ["user:hunTer2@k"]}`,
		`central: {kafka: {brokers: ["user:hunTer2@k:9092"]}}`,
		`auth: {issuers: [{issuer: i, roles: [operator], jwks_url: "https://user:hunTer2@idp/jwks"}]}`,
		`auth: {issuers: [{issuer: i, roles: [operator], jwks_url: "https://user:hunTer2@idp:x/jwks"}]}`,
	} {
		c, err := Parse("cell.yaml", []byte("cell: {id: c}\n"+section+"\n"))
		var shown strings.Builder
		if err != nil {
			shown.WriteString(err.Error())
		} else if err := Print(&shown, c); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(shown.String(), "hunTer2") {
			t.Errorf("%s\nshows the secret:\n%s", section, shown.String())
		}
	}
}
