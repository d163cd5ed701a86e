package kafkaclient

import (
	"crypto/tls"
	"crypto/x509"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl/plain"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

func TestLogin(t *testing.T) {
	t.Parallel()
	for mechanism, method := range map[string]string{
		"plain": "PLAIN", "scram-sha-256": "SCRAM-SHA-256", "SCRAM-SHA-512": "SCRAM-SHA-512",
	} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			c := fakekafka.Cluster(t, kfake.EnableSASL(), kfake.SeedTopics(1, "a"),
				kfake.Superuser(method, "gate", "secret"), kfake.Superuser("PLAIN", "look", "look"))
			p := producer(t, c, func(o *ProducerOptions) {
				o.SASL = &SASL{Mechanism: mechanism, User: "gate", Password: "secret"}
			})
			out := &collector{}
			send(p, out, "a", 1, 5)
			allWritten(t, out.wait(t), 5)
			cl, err := kgo.NewClient(kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics("a"),
				kgo.SASL(plain.Auth{User: "look", Pass: "look"}.AsMechanism()), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
			check.OK(t, err)
			defer cl.Close()
			if f := cl.PollFetches(t.Context()); f.NumRecords() == 0 {
				t.Fatal("nothing was written")
			}
			wrong := producer(t, c, func(o *ProducerOptions) {
				o.SASL = &SASL{Mechanism: mechanism, User: "gate", Password: "wrong"}
				o.PingInterval = 10 * time.Millisecond
			})
			check.Eventually(t, "the refusal is told", func() bool { return !wrong.Health().OK })
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	cert, roots := server.TLS.Certificates, x509.NewCertPool()
	roots.AddCert(server.Certificate())
	server.Close()
	c := fakekafka.Cluster(t, kfake.TLS(&tls.Config{Certificates: cert, MinVersion: tls.VersionTLS12}), kfake.SeedTopics(1, "a"))
	p := producer(t, c, func(o *ProducerOptions) { o.TLS = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12} })
	out := &collector{}
	send(p, out, "a", 1, 5)
	allWritten(t, out.wait(t), 5)
	unauthorized := producer(t, c, func(o *ProducerOptions) {
		o.TLS, o.PingInterval = &tls.Config{MinVersion: tls.VersionTLS12}, 10*time.Millisecond
	})
	check.Eventually(t, "the refusal is told", func() bool { return !unauthorized.Health().OK })
}
