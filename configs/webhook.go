package configs

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"
)

// Bounds of a webhook's signing keys.
const (
	minWebhookKey  = 16 // bytes
	maxWebhookKeys = 4
)

var errWebhookKey = errors.New("is not a signing key")

// SigningKey returns a webhook's key in bytes. The form whsec_ and base64 is that of Standard Webhooks.
func SigningKey(s Secret) ([]byte, error) {
	key := []byte(s.Reveal())
	if text, encoded := strings.CutPrefix(s.Reveal(), "whsec_"); encoded {
		var err error
		if key, err = base64.StdEncoding.DecodeString(text); err != nil {
			return nil, errWebhookKey // the error must not repeat the text
		}
	}
	if len(key) < minWebhookKey {
		return nil, fmt.Errorf("%w: it has less than %d bytes", errWebhookKey, minWebhookKey)
	}
	return key, nil
}

// WebhookNames returns the names of the webhooks, sorted; never nil.
func (c *Config) WebhookNames() []string {
	names := slices.AppendSeq(make([]string, 0, len(c.Webhooks)), maps.Keys(c.Webhooks))
	slices.Sort(names)
	return names
}

func (k *checker) webhooks() {
	for name := range k.cfg.Webhooks {
		w := k.cfg.Webhooks[name]
		path := join("webhooks", name)
		if !nameRE().MatchString(name) {
			k.problem(path, fmt.Sprintf("%q is not a name", name), "use letters, digits, '.', '_' and '-', at most 64")
		}
		k.webhookURL(path, &w)
		if n := len(w.Keys); (n == 0 || n > maxWebhookKeys) && !k.failed(path+".keys") {
			k.problem(path+".keys", fmt.Sprintf("has %d keys", n), fmt.Sprintf("write one to %d, such as [\"${CRM_KEY}\"]", maxWebhookKeys))
		}
		for i, key := range w.Keys {
			if _, err := SigningKey(key); err != nil {
				k.problem(fmt.Sprintf("%s.keys[%d]", path, i), err.Error(), fmt.Sprintf("write at least %d random bytes, such as whsec_ and what `openssl rand -base64 32` prints", minWebhookKey))
			}
		}
		for i, network := range w.PrivateNetworks {
			if _, err := netip.ParsePrefix(network); err != nil {
				k.problem(fmt.Sprintf("%s.private_networks[%d]", path, i), fmt.Sprintf("%q is not a network", network), "write it like 10.20.0.0/16")
			}
		}
		k.clientTLS(path+".tls", w.TLS)
	}
}

func (k *checker) webhookURL(path string, w *Webhook) {
	u, err := url.Parse(w.URL)
	switch {
	case k.failed(path + ".url"):
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		k.problem(path+".url", "is not an http address", "write https://host/path")
	case u.User != nil:
		k.problem(path+".url", "holds a login", "remove it: the receiver identifies the gateway by the signature")
	case u.Scheme == "http" && len(w.PrivateNetworks) == 0:
		k.problem(path+".url", "is plain http, which is for private networks only", "write https://…, or name the network in private_networks")
	}
}
