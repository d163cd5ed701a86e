package check

import "strings"

// ForeignFiles are files that someone might name by mistake. All that must not be printed of them holds the word canary, the number
// 4711 or [[.
func ForeignFiles() map[string]string {
	return map[string]string{
		"a private key":       "-----BEGIN EC PRIVATE KEY-----\ncanary+cANARY==\n-----END EC PRIVATE KEY-----\n",
		"a token":             "eyJhbGciOiJFUzI1NiJ9.canary.canary\n",
		"an environment":      "DB_PASSWORD=canary\nexport API=canary\n",
		"a password file":     "canary:canary:0:0:root:/root:/bin/bash\nx:canary:1:\n",
		"cut JSON":            `{"canary": "canary", "a": [1,2`,
		"other JSON":          `{"canary": "canary"}`,
		"prose":               "just a canary: that goes on: here\n",
		"a list":              "- canary\n- canary\n",
		"other YAML":          "apiVersion: v1\ndata: {canary: canary}\n",
		"one key twice":       "canary: 1\ncanary: 2\n",
		"a version":           "%YAML canary\n---\na: 1\n",
		"an unclosed quote":   "a: \"canary\nb: canary\n",
		"bytes":               "\x00\x01canary\xff\xfe{[canary",
		"a number":            "4711\n",
		"a script":            "#!/bin/sh\nset -e; PASS=canary\nif [ \"$1\" = canary ]; then echo \"canary\"; fi\n",
		"a map of everything": "? canary\n: canary\n",
		"anchors":             "a: *canary\nb: !canary x\n",
		"deep":                strings.Repeat("[", 200) + "canary",
		"two documents":       "a: canary\n---\nb: canary\n",
	}
}
