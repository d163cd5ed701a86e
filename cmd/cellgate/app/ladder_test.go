package app

import (
	"testing"

	"cellgate/auth"
	"cellgate/configs"
)

func TestRungsRiseAtTheWatermarksAndFallBelowThem(t *testing.T) {
	t.Parallel()
	c := &configs.Journal{AlarmPercent: 70, RefusePercent: 85, HoldPercent: 95}
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
		{0.82, rungAlarm},
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

func TestUsedShareCountsTheDisk(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tc := range []struct {
		name                           string
		bytes, bound, most, room, free int64
		want                           float64
	}{
		{"empty journal, large disk", 0, 95 * mib, 100 * mib, 95 * mib, 1000 * mib, 0},
		{"half of the bound", 60 * mib, 95 * mib, 100 * mib, 45 * mib, 1000 * mib, 0.5},
		{"at the bound", 95 * mib, 95 * mib, 100 * mib, 0, 1000 * mib, 0.95},
		{"small disk, empty journal", 4 * mib, 950 * mib, 1000 * mib, 40 * mib, 36 * mib, 0},
		{"small disk, full", 40 * mib, 950 * mib, 1000 * mib, 0, 0, 1},
		{"nothing at all", 0, 95 * mib, 100 * mib, 0, 0, 1},
	} {
		if got := usedShare(tc.bytes, tc.bound, tc.most, tc.room, tc.free); got != tc.want {
			t.Errorf("%s: %g, want %g", tc.name, got, tc.want)
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
