package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cellgate/test/check"
)

// MirrorMaker starts MirrorMaker 2 of a Kafka release. It copies the topics that match the pattern, with unchanged
// names, from the cell to the centre. name distinguishes it from earlier ones. Memory and garbage collector are those
// of Kafka's start script; tasks, batches and compression are tuned for throughput.
func MirrorMaker(t testing.TB, version, name string, cell, centre []string, topics string, tasks int) *Process {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "mm2.properties")
	check.OK(t, os.WriteFile(file, []byte(fmt.Sprintf(`clusters=%[1]s,centre
%[1]s.bootstrap.servers=%[2]s
centre.bootstrap.servers=%[3]s
%[1]s->centre.enabled=true
centre->%[1]s.enabled=false
%[1]s->centre.topics=%[4]s
replication.policy.class=org.apache.kafka.connect.mirror.IdentityReplicationPolicy
replication.factor=1
checkpoints.topic.replication.factor=1
heartbeats.topic.replication.factor=1
offset-syncs.topic.replication.factor=1
offset.storage.replication.factor=1
status.storage.replication.factor=1
config.storage.replication.factor=1
emit.heartbeats.enabled=false
emit.checkpoints.enabled=false
sync.topic.acls.enabled=false
sync.topic.configs.enabled=false
tasks.max=%[5]d
centre.producer.compression.type=zstd
centre.producer.batch.size=524288
centre.producer.linger.ms=5
centre.producer.buffer.memory=67108864
%[1]s.consumer.max.poll.records=5000
`, name, strings.Join(cell, ","), strings.Join(centre, ","), topics, tasks)), 0o600))
	// Without an SLF4J binding its clients log nothing.
	return StartProcess(t, "mirrormaker", dir, nil, java(dir, "-Xms256M", "-Xmx2G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
		"-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true",
		"-cp", filepath.Join(kafkaJars(t, "connect-mirror", version), "*"), "org.apache.kafka.connect.mirror.MirrorMaker", file)...)
}
