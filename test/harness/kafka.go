package harness

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"cellgate/test/check"
	"cellgate/test/fakekafka"
)

// Kafka is a running Kafka cluster, Apache or embedded.
type Kafka struct {
	Brokers []string
	// Nodes are the broker processes of an Apache Kafka; empty for the embedded one.
	Nodes []*Process
	// Links are the links between clients and brokers; only with LinkedKafka.
	Links []*Link

	t      testing.TB
	direct []string // addresses without links; nil: Brokers
	launch []func() *Process
}

// Client returns a client of the brokers without links, which is closed with the test.
func (k *Kafka) Client(t testing.TB, opts ...kgo.Opt) *kgo.Client {
	t.Helper()
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(k.Direct()...))...)
	check.OK(t, err)
	t.Cleanup(cl.Close)
	return cl
}

// Direct returns the brokers' addresses without Links, for the test itself.
func (k *Kafka) Direct() []string {
	if k.direct != nil {
		return k.direct
	}
	return k.Brokers
}

// EmbeddedKafka starts the broker that `cellgate dev` embeds in the test's process, so that it survives when the test
// kills a gateway. Topics are created on first use.
func EmbeddedKafka(t testing.TB) *Kafka {
	t.Helper()
	c := fakekafka.Cluster(t, kfake.AllowAutoTopicCreation(), kfake.DefaultNumPartitions(4))
	return &Kafka{Brokers: c.ListenAddrs(), t: t}
}

// FixedKafka is EmbeddedKafka with the given topics of 4 partitions each and without automatic creation.
func FixedKafka(t testing.TB, topics ...string) *Kafka {
	t.Helper()
	return &Kafka{Brokers: fakekafka.Cluster(t, kfake.SeedTopics(4, topics...)).ListenAddrs(), t: t}
}

// kafkaVersions are the Apache Kafka releases that `make test-real` runs against.
var kafkaVersions = []string{"3.9.2", "4.3.1"}

// KafkaVersions returns the Apache Kafka releases to test with.
func KafkaVersions() []string { return append([]string(nil), kafkaVersions...) }

// ApacheKafka starts an Apache Kafka of a release in KRaft mode. Each broker is also a controller. Its jars are
// downloaded from Maven Central once per machine.
func ApacheKafka(t testing.TB, version string, brokers int) *Kafka {
	t.Helper()
	return (&Kafka{t: t}).run(version, brokers, false, nil)
}

// LinkedKafka is ApacheKafka with a Link between clients and each broker. Traffic between brokers and controllers, and
// Kafka.Read, bypass the links. Topics are not created automatically.
func LinkedKafka(t testing.TB, version string, brokers int) *Kafka {
	t.Helper()
	k := &Kafka{t: t}
	return k.run(version, brokers, true, func(name, upstream string) string {
		l := NewLink(t, name, upstream)
		k.Links = append(k.Links, l)
		return l.Addr
	})
}

// WideKafka is ApacheKafka that clients reach over a WideLink, except those that use Direct.
func WideKafka(t testing.TB, version string, brokers int, line *WideLink) *Kafka {
	t.Helper()
	return (&Kafka{t: t}).run(version, brokers, false, func(_, upstream string) string { return line.To(upstream) })
}

// run starts the brokers. path creates the clients' path to a broker if it differs from the path between brokers.
// restless is for tests that restart brokers often.
func (k *Kafka) run(version string, brokers int, restless bool, path func(name, upstream string) string) *Kafka {
	t := k.t
	t.Helper()
	jars := kafkaJars(t, "kafka_2.13", version)
	dir := t.TempDir()
	nodes := make([]*kafkaNode, brokers)
	var voters []string
	for i := range nodes {
		n := &kafkaNode{
			id: i + 1, jars: jars, dir: filepath.Join(dir, fmt.Sprint(i+1)), client: FreeAddr(t), controller: FreeAddr(t),
			replicas: min(brokers, 3), restless: restless,
		}
		n.advertised = n.client
		if path != nil {
			n.advertised, n.internal = path(fmt.Sprintf("kafka-%d", n.id), n.client), FreeAddr(t)
			k.direct = append(k.direct, n.internal)
		}
		k.Brokers = append(k.Brokers, n.advertised)
		voters = append(voters, fmt.Sprintf("%d@%s", n.id, n.controller))
		nodes[i] = n
	}
	for _, n := range nodes {
		n.voters = strings.Join(voters, ",")
		n.format(t)
		start := func() *Process { return n.start(t) }
		k.launch, k.Nodes = append(k.launch, start), append(k.Nodes, start())
	}
	for i, n := range nodes { // a broker listens only when most of them run
		AwaitTCP(t, n.client, 3*time.Minute, k.Nodes[i])
	}
	k.AwaitReady(3 * time.Minute)
	return k
}

const readyTopic = "harness.ready"

// AwaitReady waits until the cluster returns metadata and accepts a record.
func (k *Kafka) AwaitReady(limit time.Duration) {
	k.t.Helper()
	check.Within(k.t, limit, "kafka ready", func() error {
		cl, err := kgo.NewClient(kgo.SeedBrokers(k.Direct()...), kgo.RecordDeliveryTimeout(5*time.Second))
		if err != nil {
			return err
		}
		defer cl.Close()
		ctx, cancel := context.WithTimeout(k.t.Context(), 6*time.Second)
		defer cancel()
		_, err = kadm.NewClient(cl).CreateTopic(ctx, -1, -1, nil, readyTopic)
		if err != nil && !errors.Is(err, kerr.TopicAlreadyExists) {
			return err
		}
		return cl.ProduceSync(ctx, &kgo.Record{Topic: readyTopic, Value: []byte("ready")}).FirstErr()
	})
}

// Restart starts broker i again with its data and address, after Kill or Stop of Nodes[i]. Wait with AwaitReady and
// AwaitInSync.
func (k *Kafka) Restart(i int) {
	k.t.Helper()
	k.Nodes[i] = k.launch[i]()
}

type kafkaNode struct {
	id, replicas                          int
	jars, dir, client, controller, voters string
	// advertised is the advertised address of client. internal is the listener for other brokers; empty: they use
	// client.
	advertised, internal string
	restless             bool
}

func (n *kafkaNode) properties() string {
	listeners, between := "PLAINTEXT://"+n.client, "PLAINTEXT"
	advertised, create := "PLAINTEXT://"+n.advertised, true
	if n.internal != "" {
		listeners, between = listeners+",INTERNAL://"+n.internal, "INTERNAL"
		advertised, create = advertised+",INTERNAL://"+n.internal, false
	}
	return fmt.Sprintf(`process.roles=broker,controller
node.id=%d
controller.quorum.voters=%s
listeners=%s,CONTROLLER://%s
advertised.listeners=%s
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=%s
log.dirs=%s
num.partitions=4
default.replication.factor=%d
min.insync.replicas=%d
offsets.topic.replication.factor=%d
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=%d
transaction.state.log.min.isr=%d
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
broker.session.timeout.ms=5000
broker.heartbeat.interval.ms=1000
replica.lag.time.max.ms=5000
auto.create.topics.enable=%t
`, n.id, n.voters, listeners, n.controller, advertised, between, filepath.Join(n.dir, "data"), n.replicas,
		max(1, n.replicas-1), n.replicas, n.replicas, max(1, n.replicas-1), create)
}

func (n *kafkaNode) classpath() string { return filepath.Join(n.jars, "*") }

// format writes the configuration and formats the data folder, which KRaft requires.
func (n *kafkaNode) format(t testing.TB) {
	t.Helper()
	check.OK(t, os.MkdirAll(n.dir, 0o750))
	file := filepath.Join(n.dir, "server.properties")
	check.OK(t, os.WriteFile(file, []byte(n.properties()), 0o600))
	const cluster = "Y2VsbGdhdGUtdGVzdC0wMQ" // any base64 of 16 bytes
	argv := java(n.dir, "-XX:TieredStopAtLevel=1", "-cp", n.classpath(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c", file)
	cmd := exec.Command(argv[0], argv[1:]...) //nolint:gosec // our own paths
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("format kafka storage: %v\n%s", err, out)
	}
}

// tuning returns JVM options: for tests that restart brokers often, a quick start at lower throughput.
func (n *kafkaNode) tuning() string {
	if n.restless {
		return "-XX:TieredStopAtLevel=1"
	}
	return "-XX:+TieredCompilation" // the default
}

func (n *kafkaNode) start(t testing.TB) *Process {
	t.Helper()
	return StartProcess(t, fmt.Sprintf("kafka-%d", n.id), n.dir, nil, java(n.dir, "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", n.tuning(),
		"-cp", n.classpath(), "kafka.Kafka", filepath.Join(n.dir, "server.properties"))...)
}

// java returns the command line of a JVM that leaves nothing outside of a folder, also if it is killed: neither libraries that it
// unpacked nor its performance counters.
func java(dir string, args ...string) []string {
	return append([]string{"java", "-Djava.io.tmpdir=" + dir, "-XX:-UsePerfData"}, args...)
}

// fetching serializes downloads within one process.
var fetching sync.Mutex

// kafkaJars returns the folder with the jars of an artifact of a release and downloads them with Maven if missing.
func kafkaJars(t testing.TB, artifact, version string) string {
	t.Helper()
	fetching.Lock()
	defer fetching.Unlock()
	cache, err := os.UserCacheDir()
	check.OK(t, err)
	dir := filepath.Join(cache, "cellgate", strings.TrimSuffix(artifact, "_2.13")+"-"+version)
	if _, err := os.Stat(filepath.Join(dir, "complete")); err == nil {
		return dir
	}
	_, here, _, _ := runtime.Caller(0)
	pom := filepath.Join(filepath.Dir(here), "..", "real", "kafka", "pom.xml")
	cmd := exec.Command("mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", //nolint:gosec // our own paths
		"-Dkafka.version="+version, "-Dkafka.artifact="+artifact, "-DoutputDirectory="+dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fetch %s of Apache Kafka %s with Maven: %v\n%s", artifact, version, err, out)
	}
	check.OK(t, os.WriteFile(filepath.Join(dir, "complete"), nil, 0o600))
	return dir
}

// Record is one record as a consumer sees it.
type Record struct {
	Topic     string
	Partition int32
	Offset    int64
	Key       string
	Value     []byte
	Headers   map[string]string
	Timestamp time.Time
}

// Read returns all current records of the topic, per partition in order. A missing topic has no records.
func (k *Kafka) Read(topic string) []Record {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), time.Minute)
	defer cancel()
	records, err := ReadTopic(ctx, k.Direct(), topic)
	if err != nil {
		k.t.Fatalf("read %s: %v", topic, err)
	}
	return records
}

// Each calls take for every record that Read would return, without keeping them.
func (k *Kafka) Each(topic string, take func(Record)) {
	k.t.Helper()
	ctx, cancel := context.WithTimeout(k.t.Context(), 5*time.Minute)
	defer cancel()
	if err := EachRecord(ctx, k.Direct(), topic, take); err != nil {
		k.t.Fatalf("read %s: %v", topic, err)
	}
}

// Await polls the topic until enough returns nil for its records, and returns them.
func (k *Kafka) Await(topic string, limit time.Duration, enough func([]Record) error) []Record {
	k.t.Helper()
	var got []Record
	check.Within(k.t, limit, "records in "+topic, func() error {
		// A client that reads the topic during leader election may never reach the end; the next one does.
		ctx, cancel := context.WithTimeout(k.t.Context(), 15*time.Second)
		defer cancel()
		var err error
		if got, err = ReadTopic(ctx, k.Direct(), topic); err != nil {
			return err
		}
		return enough(got)
	})
	return got
}

// AtLeast returns an Await condition: at least n records.
func AtLeast(n int) func([]Record) error {
	return func(r []Record) error {
		if len(r) < n {
			return fmt.Errorf("%d records, want %d", len(r), n)
		}
		return nil
	}
}

// Hosts returns the brokers as a comma-separated list, as for kcat -b.
func (k *Kafka) Hosts() string { return strings.Join(k.Brokers, ",") }

// Port returns the port of the first broker.
func (k *Kafka) Port() string {
	_, port, _ := net.SplitHostPort(k.Brokers[0])
	return port
}
