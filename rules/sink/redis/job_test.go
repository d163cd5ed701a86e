package redis

import (
	"fmt"
	"testing"
	"time"

	"cellgate/rules/expr"
	"cellgate/rules/op"
	"cellgate/test/check"
)

func state(i int) *op.RedisOp {
	op := &op.RedisOp{Kind: op.RedisHash, Key: fmt.Sprint("veh:", i), NewerThan: "_at", At: 1763600000000, Believed: 1763600300000, OwnTime: i%2 == 0, Seq: uint64(i), TTL: time.Hour} //nolint:gosec // small
	for f := range 12 {
		op.Fields = append(op.Fields, expr.Field{Name: fmt.Sprint("f", f), Value: fmt.Append(nil, i, "/", f)})
	}
	return op
}

// TestArgumentsHoldWhileTheirMemoryGrows builds a whole pipeline in empty memory and checks all of it afterwards.
func TestArgumentsHoldWhileTheirMemoryGrows(t *testing.T) {
	t.Parallel()
	a := arguments{sha: "sha"}
	var pool jobs
	var lists [][]any
	for i := range 512 {
		j := pool.get()
		if !j.build(state(i)) {
			t.Fatal("unknown operation")
		}
		lists = append(lists, a.first(j))
	}
	for i, args := range lists {
		op := state(i)
		want := []string{"evalsha", "sha", "1", op.Key, "_at", op.AtText(), "_at_seq", fmt.Sprint(i), "3600000", "2025-11-20T00:58:20.000Z", fmt.Sprint(1 - i%2)}
		for _, f := range op.Fields {
			want = append(want, f.Name, string(f.Value))
		}
		if len(args) != len(want) {
			t.Fatalf("%d: %d arguments, want %d", i, len(args), len(want))
		}
		for k, arg := range args {
			if got := argument(t, arg); got != want[k] {
				t.Fatalf("%d: argument %d is %q, want %q", i, k, got, want[k])
			}
		}
	}
}

// argument returns what go-redis sends for an argument.
func argument(t *testing.T, arg any) string {
	t.Helper()
	switch v := arg.(type) {
	case string:
		return v
	case *string:
		return *v
	case *text:
		b, err := v.MarshalBinary()
		check.OK(t, err)
		return string(b)
	}
	t.Fatalf("argument of type %T", arg)
	return ""
}

// TestMessagesDoNotAllocate checks that the sink itself does not allocate per message.
func TestMessagesDoNotAllocate(t *testing.T) {
	a := arguments{sha: "sha"}
	op := state(1)
	j := &job{}
	round := func() {
		*j = job{buf: j.buf[:0], ends: j.ends[:0]}
		a.reset()
		j.build(op)
		a.first(j)
	}
	round()
	if n := testing.AllocsPerRun(100, round); n > 0 {
		t.Errorf("%v allocations per message", n)
	}
}

// TestEveryOperationHasACommand checks that the sink knows every kind of operation that rules can produce.
func TestEveryOperationHasACommand(t *testing.T) {
	t.Parallel()
	for kind := op.RedisKind(1); kind < op.RedisKinds; kind++ {
		if commands[kind].args == nil || commands[kind].name == nil {
			t.Errorf("operation %d has no command", kind)
		}
	}
}
