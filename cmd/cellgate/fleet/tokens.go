package fleet

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// errNoToken is wrapped when a source has no token for a vehicle.
var errNoToken = errors.New("no token for this vehicle")

// TokenSet is a fixed set of tokens.
type TokenSet struct {
	vins   []string
	tokens map[string]string
}

// VINs returns the vehicles of the set in the order of the file.
func (t *TokenSet) VINs() []string { return t.vins }

// Token returns the vehicle's token, or errNoToken.
func (t *TokenSet) Token(vin string) (string, error) {
	if token, ok := t.tokens[vin]; ok {
		return token, nil
	}
	return "", fmt.Errorf("%s: %w", vin, errNoToken)
}

func (t *TokenSet) add(vin, token string) {
	if _, known := t.tokens[vin]; !known {
		t.vins = append(t.vins, vin)
	}
	t.tokens[vin] = token
}

// ReadTokens reads a file with one token per line, as printed by `cellgate token issue --vins FILE`. A line is a token,
// whose subject is the VIN, or VIN and token separated by blanks. Empty lines and lines that begin with # are skipped.
func ReadTokens(file string) (*TokenSet, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	set := &TokenSet{tokens: make(map[string]string)}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 64<<10)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		vin, token, two := strings.Cut(line, " ")
		if !two {
			token = line
			if vin, err = subject(token); err != nil {
				return nil, fmt.Errorf("%s:%d: %w", file, n, err)
			}
		}
		set.add(vin, strings.TrimSpace(token))
	}
	return set, lines.Err()
}

// ReadTokenDir reads a folder of tokens: one file per vehicle, named by its VIN, with any extension.
func ReadTokenDir(dir string) (*TokenSet, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	set := &TokenSet{tokens: make(map[string]string)}
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		token, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		set.add(strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())), strings.TrimSpace(string(token)))
	}
	return set, nil
}

// subject reads the subject of a JWT without verifying it: the gateway does that.
func subject(token string) (string, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return "", errors.New("not a token: want three parts separated by dots")
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", errors.New("not a token: the claims are not base64url")
	}
	var claims struct {
		Sub string `json:"sub"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil || claims.Sub == "" {
		return "", errors.New("not a token: no subject")
	}
	return claims.Sub, nil
}
