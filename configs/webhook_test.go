package configs

import (
	"strings"
	"testing"

	"cellgate/test/check"
)

func TestWebhooks(t *testing.T) {
	t.Parallel()
	parse := func(section string) (*Config, error) {
		return Parse("cell.yaml", []byte("cell: {id: c}\nwebhooks:\n  crm: "+section+"\n"))
	}
	c, err := parse(`{url: "https://crm.example.com/x", keys: [0123456789abcdef, whsec_MDEyMzQ1Njc4OWFiY2RlZg==]}`)
	check.OK(t, err)
	w := c.Webhooks["crm"]
	if w.Requests != 8 || w.Timeout.Std().Seconds() != 10 || len(c.WebhookNames()) != 1 {
		t.Errorf("%+v", w)
	}
	for _, s := range w.Keys {
		if key, err := SigningKey(s); err != nil || string(key) != "0123456789abcdef" {
			t.Errorf("key %q: %v", key, err)
		}
	}
	var shown strings.Builder
	if err := Print(&shown, c); err != nil || strings.Contains(shown.String(), "0123456789") || strings.Contains(shown.String(), "MDEyMz") {
		t.Errorf("%v\n%s", err, shown.String())
	}
	for section, want := range map[string]string{
		`{keys: [0123456789abcdef]}`:                                                           "webhooks.crm.url: is not an http address",
		`{url: "ftp://x/y", keys: [0123456789abcdef]}`:                                         "is not an http address",
		`{url: "http://10.0.0.1/", keys: [0123456789abcdef]}`:                                  "is plain http",
		`{url: "https://u:hunTer2@x/", keys: [0123456789abcdef]}`:                              "holds a login",
		`{url: "https://x/"}`:                                                                  "has 0 keys",
		`{url: "https://x/", keys: [hunTer2]}`:                                                 "less than 16 bytes",
		`{url: "https://x/", keys: [whsec_hunTer2]}`:                                           "is not a signing key",
		`{url: "https://x/", keys: [0123456789abcdef], private_networks: [10.0.0.1]}`:          "is not a network",
		`{url: "https://x/", keys: [0123456789abcdef], requests: 0}`:                           "out of range",
		`{url: "https://x/", keys: [0123456789abcdef], tls: {cert: a.crt}}`:                    "cert and key go together",
		`{url: "https://x/", keys: [0123456789abcdef], timeout: 10s, headers: {a: b}}`:         "headers: unknown key",
		`{url: "http://10.0.0.1/", keys: [0123456789abcdef], private_networks: [10.0.0.0/33]}`: "is not a network",
	} {
		_, err := parse(section)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunTer2") {
			t.Errorf("%s\n%v\nwant %q", section, err, want)
		}
	}
}
