package deploy

import (
	"debug/buildinfo"
	"encoding/json"
	"os"
	"testing"
)

// TestBillOfMaterials holds the file that `make sbom` writes against what is linked into the binary: each module is there with
// its version and a hash.
func TestBillOfMaterials(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(binary(t) + ".cdx.json")
	if err != nil {
		t.Fatalf("make sbom makes it: %v", err)
	}
	var bom struct {
		BomFormat, SpecVersion string
		Metadata               struct {
			Component struct{ Name, Version string }
		}
		Components []struct {
			Purl   string
			Hashes []struct{ Alg, Content string }
		}
	}
	if err := json.Unmarshal(text, &bom); err != nil {
		t.Fatal(err)
	}
	if of := bom.Metadata.Component; bom.BomFormat != "CycloneDX" || bom.SpecVersion == "" || of.Name != "cellgate" || of.Version == "" {
		t.Errorf("it is a %s %s of %+v", bom.BomFormat, bom.SpecVersion, of)
	}
	hashed := make(map[string]bool)
	for _, c := range bom.Components {
		hashed[c.Purl] = len(c.Hashes) > 0
	}
	info, err := buildinfo.ReadFile(binary(t))
	if err != nil || len(info.Deps) == 0 {
		t.Fatalf("%d modules: %v", len(info.Deps), err)
	}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		if purl := "pkg:golang/" + m.Path + "@" + m.Version; !hashed[purl] {
			t.Errorf("%s is linked into the binary, and not in the bill of materials with a hash", purl)
		}
	}
}
