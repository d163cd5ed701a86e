package sink

import (
	"time"

	"cellgate/broker/wal"
)

// UseFileSystem puts the decision logs on another file system.
func (o *Options) UseFileSystem(fs wal.FS) { o.fs = fs }

// UseLagAlarm changes how old a pending record is when its sink is reported.
func (o *Options) UseLagAlarm(age time.Duration) { o.lagAlarm = age }
