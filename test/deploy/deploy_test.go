// Package deploy holds what is in deploy/ against the types and tools of those who read it.
package deploy

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/cli"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

const root = "../../deploy"

// decode builds the kustomization and reads it strictly: an unknown or doubled key is an error.
func decode(t *testing.T) []runtime.Object {
	t.Helper()
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(root, "kubernetes"))
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{appsv1.AddToScheme, corev1.AddToScheme, networkingv1.AddToScheme, policyv1.AddToScheme} {
		if err := add(scheme); err != nil {
			t.Fatal(err)
		}
	}
	decoder := serializer.NewCodecFactory(scheme, serializer.EnableStrict).UniversalDeserializer()
	var objects []runtime.Object
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		o, _, err := decoder.Decode(text, nil, nil)
		if err != nil {
			t.Errorf("%s %s: %v", r.GetKind(), r.GetName(), err)
			continue
		}
		objects = append(objects, o)
	}
	return objects
}

func TestKubernetes(t *testing.T) {
	t.Parallel()
	config := filepath.Join(t.TempDir(), "cell.yaml")
	var set *appsv1.StatefulSet
	names := make(map[string]bool) // of config maps
	for _, o := range decode(t) {
		switch o := o.(type) {
		case *appsv1.StatefulSet:
			set = o
		case *corev1.ConfigMap:
			names[o.Name] = true
			if text, ok := o.Data["cell.yaml"]; ok {
				if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if set == nil {
		t.Fatal("no StatefulSet")
	}
	pod := set.Spec.Template.Spec
	for _, v := range pod.Volumes {
		if v.ConfigMap != nil && !names[v.ConfigMap.Name] {
			t.Errorf("volume %s: there is no config map %s", v.Name, v.ConfigMap.Name)
		}
	}
	c := pod.Containers[0]
	ports := make(map[string]bool)
	for _, p := range c.Ports {
		ports[p.Name] = true
	}
	for what, p := range map[string]*corev1.Probe{"startup": c.StartupProbe, "liveness": c.LivenessProbe, "readiness": c.ReadinessProbe} {
		if p == nil || p.HTTPGet == nil || !ports[p.HTTPGet.Port.String()] {
			t.Errorf("the %s probe asks no port of the container", what)
		}
	}
	check(t, config, "KAFKA_PASSWORD=x", "REDIS_PASSWORD=x")
	// What runs before a stop is a call that the binary takes.
	help := exec.Command(binary(t), append(c.Lifecycle.PreStop.Exec.Command[1:], "--help")...)
	if out, err := help.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--wait")) {
		t.Errorf("preStop: %v\n%s", err, out)
	}
}

func TestCompose(t *testing.T) {
	t.Parallel()
	o, err := cli.NewProjectOptions([]string{filepath.Join(root, "compose", "compose.yaml")})
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for name, s := range p.Services {
		for _, v := range s.Volumes {
			if _, err := os.Stat(v.Source); v.Type == "bind" && err != nil && !strings.Contains(v.Source, "/tls") {
				t.Errorf("%s mounts what is not there: %v", name, err)
			}
		}
	}
	check(t, filepath.Join(root, "compose", "cell.yaml"))
}

// TestVersion holds that the image that is deployed is the one that `make image` makes.
func TestVersion(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../Makefile")
	if err != nil {
		t.Fatal(err)
	}
	made := regexp.MustCompile(`(?m)^IMAGE +\?= (\S+)$`).FindSubmatch(text)
	if made == nil {
		t.Fatal("the Makefile names no image")
	}
	for _, o := range decode(t) {
		if set, ok := o.(*appsv1.StatefulSet); ok && set.Spec.Template.Spec.Containers[0].Image != string(made[1]) {
			t.Errorf("Kubernetes takes %s, make image makes %s", set.Spec.Template.Spec.Containers[0].Image, made[1])
		}
	}
	compose, err := os.ReadFile(filepath.Join(root, "compose", "compose.yaml"))
	if err != nil || !bytes.Contains(compose, append([]byte("image: "), made[1]...)) {
		t.Errorf("compose.yaml does not take %s, which make image makes: %v", made[1], err)
	}
}

// TestUnit holds that systemd takes the unit, and calls it as well protected as it can.
func TestUnit(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "systemd", "cellgate.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "cellgate.service")
	text = bytes.ReplaceAll(text, []byte("/usr/bin/cellgate"), []byte(binary(t)))
	if err := os.WriteFile(unit, text, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"verify", unit}, {"security", "--offline=true", "--threshold=20", unit}} {
		out, err := exec.Command("systemd-analyze", args...).CombinedOutput()
		if err != nil || args[0] == "verify" && len(out) > 0 {
			t.Errorf("systemd-analyze %s: %v\n%s", args[0], err, out)
		}
	}
}

func TestDashboards(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join(root, "grafana", "dashboards", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no dashboards", err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			UID    string
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &d); err != nil || d.UID+".json" != filepath.Base(file) || len(d.Panels) == 0 {
			t.Errorf("%s: uid %q, %d panels, %v", file, d.UID, len(d.Panels), err)
		}
		var rules strings.Builder
		rules.WriteString("groups:\n  - name: panels\n    rules:\n")
		for _, p := range d.Panels {
			for _, target := range p.Targets {
				expr := strings.NewReplacer("$__rate_interval", "1m", "$cell", ".*").Replace(target.Expr)
				quoted, _ := json.Marshal(expr)
				rules.WriteString("      - {record: panel, expr: " + string(quoted) + "}\n")
			}
		}
		checkRules(t, file, rules.String())
	}
}

// checkRules has Prometheus parse the queries of a dashboard.
func checkRules(t *testing.T, name, text string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("promtool", "check", "rules", "--lint=none", file).CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", name, err, out)
	}
}

// TestRunbook holds that each alarm has its entry.
func TestRunbook(t *testing.T) {
	t.Parallel()
	alerts, err := os.ReadFile(filepath.Join(root, "prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	book, err := os.ReadFile(filepath.Join(root, "prometheus", "runbook.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(alerts)) {
		if _, name, ok := strings.Cut(strings.TrimSpace(line), "- alert: "); ok {
			if !bytes.Contains(book, []byte("\n## "+name+"\n")) {
				t.Errorf("the runbook has no entry %s", name)
			}
			if !bytes.Contains(alerts, []byte("runbook.md#"+strings.ToLower(name)+"\n")) {
				t.Errorf("%s does not name its entry", name)
			}
		}
	}
}

// TestImage builds the image and runs it as its user, without an engine.
func TestImage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	buildah := func(args ...string) string {
		t.Helper()
		out, err := exec.Command("buildah", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("buildah %s: %v\n%s", args[0], err, out)
		}
		return strings.TrimSpace(string(out))
	}
	text, err := os.ReadFile(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cellgate"), text, 0o755); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	bom, err := os.ReadFile(binary(t) + ".cdx.json")
	if err != nil {
		t.Fatalf("make sbom makes it: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cellgate.cdx.json"), bom, 0o644); err != nil { //nolint:gosec // everybody may read it
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o755); err != nil { //nolint:gosec // the image's user reads it
		t.Fatal(err)
	}
	image := buildah("build", "-q", "-f", filepath.Join(root, "container", "Containerfile"), dir)
	t.Cleanup(func() { buildah("rmi", "-f", image) })
	container := buildah("from", image)
	t.Cleanup(func() { buildah("rm", container) })
	version, err := exec.Command("buildah", "run", "--isolation", "chroot", container, "--", "/usr/bin/cellgate", "version").CombinedOutput()
	if bytes.Contains(version, []byte("operation not permitted")) {
		t.Skipf("this machine lets nobody run a container: %s", version)
	}
	if err != nil || !bytes.HasPrefix(version, []byte("cellgate ")) {
		t.Fatalf("version: %v\n%s", err, version)
	}
	serves(t, container)
}

// serves starts the gateway in a container, as the image's user on the image's data folder, until it serves.
func serves(t *testing.T, container string) {
	t.Helper()
	configs := t.TempDir()
	for name, text := range map[string]string{"none.rules.yaml": "rules: []\n", "cell.yaml": `
cell: {id: c1}
data_dir: /var/lib/cellgate
listeners: [{name: local, address: "127.0.0.1:0"}]
http: {address: "127.0.0.1:0"}
kafka: {brokers: ["127.0.0.1:1"]}
redis: {addresses: ["127.0.0.1:1"]}
rules: {path: .}
`} {
		if err := os.WriteFile(filepath.Join(configs, name), []byte(text), 0o644); err != nil { //nolint:gosec // the image's user reads it
			t.Fatal(err)
		}
	}
	if err := os.Chmod(configs, 0o755); err != nil { //nolint:gosec // the image's user reads it
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "buildah", "run", "--isolation", "chroot", "-v", configs+":/etc/cellgate:ro", container, "--",
		"/usr/bin/cellgate", "run", "--config", "/etc/cellgate/cell.yaml")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	served := false
	for lines := bufio.NewScanner(out); lines.Scan(); {
		log.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), `"msg":"serving"`) {
			served = true
			cancel()
		}
	}
	_ = cmd.Wait()
	if !served {
		t.Errorf("the gateway did not serve:\n%s", log.String())
	}
}

// check has the binary check a configuration.
func check(t *testing.T, file string, env ...string) {
	t.Helper()
	cmd := exec.Command(binary(t), "config", "check", file)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil || bytes.Contains(out, []byte("warning")) {
		t.Errorf("%s: %v\n%s", file, err, out)
	}
}

// binary is the built cellgate, which make names.
func binary(t *testing.T) string {
	t.Helper()
	path := os.Getenv("CELLGATE_BIN")
	if path == "" {
		t.Fatal("CELLGATE_BIN is not set: run make deploy-check")
	}
	return path
}
