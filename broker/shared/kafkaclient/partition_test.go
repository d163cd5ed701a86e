package kafkaclient

import "testing"

// The expected hashes are those of Kafka's own UtilsTest.testMurmur2.
func TestMurmur2AgreesWithKafka(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string":                       -1486304829,
		"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
		"abc": 479470107,
	} {
		if got := int32(murmur2([]byte(in))); got != want { //nolint:gosec // the reference is signed
			t.Errorf("murmur2(%q) = %d, Kafka says %d", in, got, want)
		}
	}
}

func TestPartitionStaysInRange(t *testing.T) {
	t.Parallel()
	for n := 1; n < 50; n++ {
		for _, key := range []string{"", "1M8GDM9AXKP042788", "x"} {
			if p := Partition([]byte(key), n); p < 0 || p >= n {
				t.Fatalf("Partition(%q, %d) = %d", key, n, p)
			}
		}
	}
}
