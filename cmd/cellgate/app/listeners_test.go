package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/broker"
	"cellgate/broker/shared/message"
	"cellgate/configs"
	"cellgate/test/check"
)

func TestAckModesByClass(t *testing.T) {
	t.Parallel()
	mode, kafka := ackModes(&configs.Uplink{Ack: "journal", AckByClass: map[string]string{"alarm": "kafka", "event": "memory"}})
	if !kafka {
		t.Error("no class waits for kafka")
	}
	for topic, want := range map[string]broker.AckMode{
		"v1/V/up/alarm":      broker.AckKafka,
		"v1/V/up/alarm/deep": broker.AckKafka,
		"v1/V/up/event":      broker.AckMemory,
		"v1/V/up/telemetry":  broker.AckJournal,
		"v1/V/res/1/alarm":   broker.AckJournal,
		"other/alarm":        broker.AckJournal,
	} {
		if got := mode(&message.Record{Topic: topic}); got != want {
			t.Errorf("%s: %d, want %d", topic, got, want)
		}
	}
	if _, kafka := ackModes(&configs.Uplink{Ack: "journal"}); kafka {
		t.Error("nobody waits for kafka by default")
	}
}

// An error about a missing or wrong TLS file names its key.
func TestListenerFilesAreNamedByTheirKeys(t *testing.T) {
	t.Parallel()
	junk := filepath.Join(t.TempDir(), "junk.pem")
	check.OK(t, os.WriteFile(junk, []byte("junk"), 0o600))
	for _, c := range []struct{ cert, key, want string }{
		{"/nonexistent.crt", junk, "listeners[0].tls.cert: /nonexistent.crt: no such file or directory; name a PEM file"},
		{junk, "/nonexistent.key", "listeners[0].tls.key: /nonexistent.key: no such file or directory; name a PEM file"},
		{junk, junk, "listeners[0].tls: cert " + junk + " and key " + junk + " are not a PEM pair"},
	} {
		cfg := &configs.Config{Listeners: []configs.Listener{
			{Name: "v", TLS: &configs.ServerTLS{Cert: configs.Path(c.cert), Key: configs.Path(c.key)}},
		}}
		if err := checkListeners(cfg); err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
	if err := checkListeners(&configs.Config{Listeners: []configs.Listener{{Name: "plain"}}}); err != nil {
		t.Errorf("a listener without TLS: %v", err)
	}
}
