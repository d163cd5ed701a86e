package app

import (
	"testing"

	"cellgate/auth"
	"cellgate/configs"
)

func TestRungsRiseAtTheWatermarksAndFallBelowThem(t *testing.T) {
	t.Parallel()
	c := &configs.Journal{AlarmPercent: 70, DropPercent: 80, RefusePercent: 85, HoldPercent: 95}
	rung := rungNormal
	for _, step := range []struct {
		used float64
		want int32
	}{
		{0.1, rungNormal},
		{0.699, rungNormal},
		{0.70, rungAlarm},
		{0.69, rungAlarm}, // within the slack
		{0.67, rungNormal},
		{0.90, rungRefuse},
		{0.84, rungRefuse},
		{0.82, rungDrop},
		{0.79, rungDrop},
		{0.77, rungAlarm},
		{0.99, rungHold},
		{0.94, rungHold},
		{0.92, rungRefuse},
		{0.0, rungNormal},
	} {
		if got := rungOf(step.used, rung, c); got != step.want {
			t.Errorf("%g from rung %d: %d, want %d", step.used, rung, got, step.want)
		}
		rung = step.want
	}
}

func TestUsedShareAndBound(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tc := range []struct {
		name              string
		written, capacity int64
		used              float64
		bound             int64
	}{
		{"empty", 0, 100 * mib, 0, 95 * mib},
		{"half", 50 * mib, 100 * mib, 0.5, 95 * mib},
		{"full", 95 * mib, 100 * mib, 0.95, 95 * mib},
		{"the disk has less than was written", 95 * mib, 40 * mib, 1, 38 * mib},
		{"no disk at all", 0, 0, 1, 3 * mib},
	} {
		if got := usedShare(tc.written, tc.capacity); got != tc.used {
			t.Errorf("%s: %g used, want %g", tc.name, got, tc.used)
		}
		if got := holdBytes(tc.capacity, mib, 95); got != tc.bound {
			t.Errorf("%s: bound %d, want %d", tc.name, got, tc.bound)
		}
	}
}

func TestAFullDiskRefusesConnections(t *testing.T) {
	t.Parallel()
	l, d := &ladder{}, &drainer{}
	ask := admission(d.admit, l.admit)
	vehicle := &auth.Identity{Role: auth.RoleVehicle}
	if reason, _ := ask(vehicle, "V"); reason != 0 {
		t.Errorf("refused with 0x%02x", reason)
	}
	if l.shed() {
		t.Error("QoS 0 is dropped with room enough")
	}
	l.rung.Store(rungDrop)
	if reason, _ := ask(vehicle, "V"); reason != 0 || !l.shed() {
		t.Errorf("reason 0x%02x, QoS 0 dropped: %t", reason, l.shed())
	}
	l.rung.Store(rungRefuse)
	if reason, _ := ask(vehicle, "V"); reason != reasonQuota {
		t.Errorf("reason 0x%02x, want 0x%02x", reason, reasonQuota)
	}
	if got, bad := l.dependency(); !bad || got.OK {
		t.Errorf("%+v", got)
	}
	d.on, d.endpoint = true, "gw-2:8883"
	if reason, endpoint := ask(vehicle, "V"); reason != reasonUseAnother || endpoint != "gw-2:8883" {
		t.Errorf("0x%02x %s", reason, endpoint)
	}
	if reason, _ := d.admit(&auth.Identity{Role: auth.RoleService}, "s"); reason != 0 {
		t.Errorf("a service is drained: 0x%02x", reason)
	}
}
