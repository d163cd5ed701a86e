package session

import (
	"testing"

	"cellgate/broker/shared/message"
	"cellgate/broker/shared/statefile"
	"cellgate/test/check"
)

// A service's session stored before keys contained the issuer is resumed, with its queue, by the cell's own service of
// that name. Another issuer's service finds nothing, and vehicles keep theirs.
func TestEarlierSessionsBelongToTheCellsServices(t *testing.T) {
	t.Parallel()
	const own, foreign = "cellgate/c", "https://idp.example"
	e := newEnv(t, func(o *Options) { o.Issuer = own })
	e.leave("billing/1", sub("v1/+/up/#", 1))
	v, _ := e.attach("V", vehicle)
	v.subscribe(sub("v1/V/cmd/#", 1))
	v.detach(false)
	e.say("v1/X/up/t", 1, "one")
	e.say("v1/X/up/t", 1, "two")
	e.checkpoint()
	err := e.db.Update(func(tx *statefile.Tx) error {
		return tx.Bucket([]byte(rootBucket)).Bucket(bucketMeta.name()).Put([]byte("format"), []byte{formatByClient})
	})
	check.OK(t, err)
	e.restart()
	if _, present := e.attach(message.SessionKey("billing/1", "service", foreign)); present {
		t.Error("another issuer's client resumes the session")
	}
	c, present := e.attach(message.SessionKey("billing/1", "service", own))
	if !present {
		t.Fatal("the cell's own client does not")
	}
	c.take(2)
	if _, present := e.attach("V", vehicle); !present {
		t.Error("the vehicle's session is gone")
	}
	if _, ok := e.m.Get("billing/1"); ok {
		t.Error("the session is there twice")
	}
}
