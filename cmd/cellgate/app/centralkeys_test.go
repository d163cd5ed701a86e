package app

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"cellgate/broker/shared/kafkaclient"
	"cellgate/configs"
	syncer "cellgate/sync"
	"cellgate/test/check"
	"cellgate/test/fakekafka"
	"cellgate/test/harness"
)

// effects names the test, or subtest, that shows the effect of each key of central.
func effects() map[string]string {
	const limits, reload, batches, keys = "TestLimitsByTheTimeOfTheDay", "TestTheCentreIsReloaded", "TestKeysOfCentralKafka/", "TestKeysOfCentral/"
	return map[string]string{
		"name": "TestTwoCentres", "bandwidth": limits, "lane_bandwidth": limits, "hours": limits, "p2_percent": limits,
		"memory": keys + "memory", "mode": keys + "mode", "group": keys + "group",
		"kafka.brokers": reload, "kafka.sasl": reload, "kafka.tls": keys + "tls",
		"kafka.compression": batches + "compression ", "kafka.linger": batches + "linger", "kafka.batch_bytes": batches + "batch_bytes",
		"kafka.missing_topic_grace": batches + "missing_topic_grace",
		"kafka.client_id":           keys + "client_id", "kafka.timeout": keys + "timeout",
		"kafka.auto_create_topics": keys + "auto_create_topics", "kafka.partitions": keys + "partitions", "kafka.replication": keys + "replication",
	}
}

// TestEveryKeyOfCentralHasAnEffect fails for a key of central without a test of its effect.
func TestEveryKeyOfCentralHasAnEffect(t *testing.T) {
	t.Parallel()
	shown := effects()
	files, err := filepath.Glob("*_test.go")
	check.OK(t, err)
	var all strings.Builder
	for _, f := range files {
		b := check.Read(t, f)
		all.Write(b)
	}
	keys := append(keysOf(reflect.TypeFor[configs.Central](), ""), keysOf(reflect.TypeFor[configs.Kafka](), "kafka.")...)
	for _, key := range keys {
		if key == "kafka" {
			continue
		}
		test, part, _ := strings.Cut(shown[key], "/")
		if test == "" || !strings.Contains(all.String(), "func "+test+"(") || !strings.Contains(all.String(), `"`+part) {
			t.Errorf("no test shows the effect of central.%s: write one, and name it in effects", key)
		}
		delete(shown, key)
	}
	for key := range shown {
		t.Errorf("central has no key %s", key)
	}
}

// keysOf returns the keys of a section.
func keysOf(section reflect.Type, prefix string) (keys []string) {
	for i := range section.NumField() {
		name, _, _ := strings.Cut(section.Field(i).Tag.Get("yaml"), ",")
		keys = append(keys, prefix+name)
	}
	return keys
}

// listenTo passes everything that a cluster's clients send to heard.
func listenTo(heard func([]byte)) kfake.Opt {
	return kfake.ListenFn(func(network, address string) (net.Listener, error) {
		l, err := (&net.ListenConfig{}).Listen(context.Background(), network, address)
		return &recordingListener{l, heard}, err
	})
}

type recordingListener struct {
	net.Listener
	heard func([]byte)
}

// Accept implements net.Listener.
func (h *recordingListener) Accept() (net.Conn, error) {
	c, err := h.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &recordingConn{c, h.heard}, nil
}

type recordingConn struct {
	net.Conn
	heard func([]byte)
}

// Read implements net.Conn.
func (c *recordingConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.heard(b[:n])
	return n, err
}

// seenTexts collects what a test has seen.
type seenTexts struct {
	mu  sync.Mutex
	all []string
}

func (s *seenTexts) add(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, fmt.Sprintf(format, args...))
}

func (s *seenTexts) has(want string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(strings.Join(s.all, "\n"), want)
}

// centralWith starts a standalone worker with further keys of central and of central.kafka, and writes a record to its
// outbox.
func centralWith(t *testing.T, central *kfake.Cluster, keys, kafka string) (cell *kfake.Cluster, s *syncer.Syncer) {
	t.Helper()
	cell = fakekafka.Cluster(t, kfake.SeedTopics(1, kafkaclient.OutboxTopics()...))
	file := writeCentre(t, t.TempDir(), cell, central, kafka)
	if keys != "" {
		check.Replace(t, file, "central: {", "central: {"+keys+", ")
	}
	if strings.HasPrefix(kafka, ", timeout: ") {
		check.Replace(t, file, "timeout: 2s"+kafka, kafka[2:])
	}
	cfg, err := configs.Load(file)
	check.OK(t, err)
	o, err := syncOptions(cfg, 0, slog.New(slog.DiscardHandler), kafkaclient.NewMetrics(nil))
	check.OK(t, err)
	o.Owner, o.Metrics = "me", syncer.NewMetrics(nil, false)
	s, err = syncer.New(o)
	check.OK(t, err)
	s.Start()
	t.Cleanup(func() { _ = s.Stop(t.Context()) })
	put(t, fakekafka.Client(t, cell), "central.p1", time.Now(), "v")
	return cell, s
}

// Every other key of central has its effect too.
func TestKeysOfCentral(t *testing.T) {
	t.Parallel()
	t.Run("client_id", func(t *testing.T) {
		t.Parallel()
		var heard seenTexts
		central := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"), listenTo(func(b []byte) {
			if bytes.Contains(b, []byte("cell-one-sync")) {
				heard.add("it")
			}
		}))
		centralWith(t, central, "", ", client_id: cell-one-sync")
		check.Eventually(t, "the client's name", func() bool { return heard.has("it") })
	})
	t.Run("tls", func(t *testing.T) {
		t.Parallel()
		dir := t.TempDir()
		harness.WriteCertificates(t, dir)
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
		check.OK(t, err)
		central := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"), kfake.TLS(&tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}))
		centralWith(t, central, "", fmt.Sprintf(", tls: {ca: %q, server_name: localhost}", filepath.Join(dir, "ca.crt")))
		check.Eventually(t, "the record", func() bool { return central.PartitionInfo("fleet.a", 0).HighWatermark == 1 })
	})
	t.Run("timeout", func(t *testing.T) {
		t.Parallel()
		var asked atomic.Int32
		central := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"))
		central.ControlKey(kmsg.Produce.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			central.KeepControl()
			asked.Store(r.(*kmsg.ProduceRequest).TimeoutMillis)
			return nil, nil, false
		})
		centralWith(t, central, "", ", timeout: 3m")
		check.Eventually(t, "a request", func() bool { return asked.Load() > 0 })
		if ms := asked.Load(); ms < 60_000 || ms > 180_000 { // the broker's part of it
			t.Errorf("the centre is given %d ms", ms)
		}
	})
	created := func(t *testing.T, settings, want string) {
		t.Helper()
		var asked seenTexts
		central := fakekafka.Cluster(t, kfake.NumBrokers(2))
		central.ControlKey(kmsg.CreateTopics.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			central.KeepControl()
			topic := r.(*kmsg.CreateTopicsRequest).Topics[0]
			asked.add("%s: %d partitions, %d replicas", topic.Topic, topic.NumPartitions, topic.ReplicationFactor)
			return nil, nil, false
		})
		centralWith(t, central, "", settings)
		check.Eventually(t, "a new topic", func() bool { return asked.has("fleet.a") })
		if !asked.has(want) {
			t.Errorf("%q, want %s", asked.all, want)
		}
	}
	t.Run("auto_create_topics", func(t *testing.T) {
		t.Parallel()
		created(t, ", auto_create_topics: true", "fleet.a: -1 partitions, -1 replicas")
	})
	t.Run("partitions", func(t *testing.T) {
		t.Parallel()
		created(t, ", auto_create_topics: true, partitions: 7", "fleet.a: 7 partitions, -1 replicas")
	})
	t.Run("replication", func(t *testing.T) {
		t.Parallel()
		created(t, ", auto_create_topics: true, replication: 2", "fleet.a: -1 partitions, 2 replicas")
	})
	t.Run("memory", func(t *testing.T) {
		t.Parallel()
		_, s := centralWith(t, fakekafka.Cluster(t), "memory: 8MiB", "")
		if all := s.Lanes(); all[0].MaxMemory != 2<<20 || all[1].MaxMemory != 4<<20 || all[2].MaxMemory != 2<<20 {
			t.Errorf("%+v", all)
		}
	})
	t.Run("mode", func(t *testing.T) {
		t.Parallel()
		var ids seenTexts
		central := fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a"))
		central.ControlKey(kmsg.InitProducerID.Int16(), func(r kmsg.Request) (kmsg.Response, error, bool) {
			central.KeepControl()
			if id := r.(*kmsg.InitProducerIDRequest).TransactionalID; id != nil {
				ids.add("%s", *id)
			}
			return nil, nil, false
		})
		centralWith(t, central, "mode: exactly_once", "")
		check.Eventually(t, "an id that fences", func() bool { return ids.has("cellgate-sync-cell-1-p1") })
	})
	t.Run("group", func(t *testing.T) {
		t.Parallel()
		cell, _ := centralWith(t, fakekafka.Cluster(t, kfake.SeedTopics(1, "fleet.a")), "group: another", "")
		adm := kadm.NewClient(fakekafka.Client(t, cell, kgo.MetadataMinAge(20*time.Millisecond)))
		check.Eventually(t, "the group's offset", func() bool {
			all, err := adm.FetchOffsets(t.Context(), "another")
			if err != nil {
				return false
			}
			at, known := all.Lookup("central.p1", 0)
			return known && at.At == 1
		})
	})
}
