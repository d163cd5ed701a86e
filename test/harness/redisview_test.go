package harness

import "testing"

// TestRedisViewRenames checks that server addresses in replies are replaced by links and that all else is unchanged.
func TestRedisViewRenames(t *testing.T) {
	t.Parallel()
	v := &RedisView{ports: map[string]string{"16379": "20001"}}
	for answer, want := range map[string]string{
		"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n16379\r\n":                     "*2\r\n$9\r\n127.0.0.1\r\n$5\r\n20001\r\n",
		"*2\r\n$9\r\n127.0.0.1\r\n:16379\r\n":                          "*2\r\n$9\r\n127.0.0.1\r\n:20001\r\n",
		"$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n$5\r\n16379\r\n": "$2\r\nip\r\n$9\r\n127.0.0.1\r\n$4\r\nport\r\n$5\r\n20001\r\n",
		"-MOVED 7 127.0.0.1:16379\r\n":                                 "-MOVED 7 127.0.0.1:20001\r\n",
		"cell 127.0.0.1 16379 127.0.0.1 16380\r\n":                     "cell 127.0.0.1 20001 127.0.0.1 16380\r\n",
		"$5\r\n16379\r\n":                                              "$5\r\n16379\r\n",
	} {
		if got := string(v.rename([]byte(answer))); got != want {
			t.Errorf("%q became %q, want %q", answer, got, want)
		}
	}
}
