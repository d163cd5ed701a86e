package configs

import (
	"path/filepath"
	"strings"
	"testing"

	"cellgate/test/check"
)

// TestBadFiles compares the errors of every file in testdata/bad with the golden file next to it.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) < 60 {
		t.Fatalf("%d bad files, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			data := check.Read(t, file)
			_, err := parseEnv(filepath.Base(file), data, noEnv)
			if err == nil {
				t.Fatal("accepted")
			}
			check.Golden(t, strings.TrimSuffix(file, ".yaml")+".golden", err.Error()+"\n")
		})
	}
}

// TestErrorsHideSecrets sets a secret to a canary value and breaks another key.
func TestErrorsHideSecrets(t *testing.T) {
	t.Parallel()
	const canary = "s3cret-canary"
	for _, text := range []string{
		"redis: {password: " + canary + ", db: x}",
		"kafka: {sasl: {password: " + canary + "}}",
		"redis: {db: \"${SECRET}\"}",
		"log: {level: \"${SECRET}\"}",
		"limits: {max_packet: \"${SECRET}\"}",
	} {
		env := func(string) (string, bool) { return canary, true }
		_, err := parseEnv("f.yaml", []byte(text), env)
		if err == nil {
			t.Fatalf("%s: accepted", text)
		}
		if strings.Contains(err.Error(), canary) {
			t.Errorf("%s: shows the secret: %v", text, err)
		}
	}
}

// TestDeepNesting parses deeply nested input: it must be refused with an error, not crash the process.
func TestDeepNesting(t *testing.T) {
	t.Parallel()
	for _, unit := range []string{"[", "{a: ", "- ", "a:\n ", "&a ", "? "} {
		if _, err := parseEnv("f.yaml", []byte(strings.Repeat(unit, 1<<10)), noEnv); err == nil {
			t.Errorf("%q repeated is accepted", unit)
		}
	}
	for _, unit := range []string{"[", "{a: ", "- ", "? ", "[\n"} {
		_, err := parseEnv("f.yaml", []byte("cell: {id: a}\nkafka:\n  brokers:\n    "+strings.Repeat(unit, 1<<17)), noEnv)
		if err == nil || !strings.Contains(err.Error(), "nested deeper than 100") {
			t.Errorf("%q repeated: %.200v", unit, err)
		}
	}
}

func TestSamplesCarryTheRules(t *testing.T) {
	t.Parallel()
	entries, err := Samples.ReadDir("rules")
	check.OK(t, err)
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".rules.yaml") {
			return
		}
	}
	t.Errorf("no rules among %v", entries)
}

func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"*.yaml", "testdata/bad/*.yaml"} {
		files, err := filepath.Glob(pattern)
		check.OK(f, err)
		for _, file := range files {
			data := check.Read(f, file)
			f.Add(data)
		}
	}
	f.Add([]byte(fullFile))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseEnv("/x/f.yaml", data, noEnv)
		if err != nil {
			for line := range strings.Lines(err.Error()) {
				if !strings.Contains(line, "; ") && !strings.HasPrefix(line, "and ") {
					t.Errorf("no remedy in %q", line)
				}
			}
			return
		}
		var out strings.Builder
		check.OK(t, Print(&out, c))
		again, err := parseEnv("/x/f.yaml", []byte(out.String()), noEnv)
		if err != nil {
			t.Fatalf("the print of a valid file is refused: %v\n%s", err, out.String())
		}
		for _, ch := range Diff(c, again) {
			if !strings.Contains(ch.Path, "password") {
				t.Errorf("%s changed on its way through the print", ch.Path)
			}
		}
	})
}
