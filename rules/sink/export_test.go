package sink

import "time"

// FileSystem is fileSystem, for tests outside of the package.
type FileSystem = fileSystem

// File is file, for tests outside of the package.
type File = file

// UseFileSystem puts the decision logs on another file system.
func (o *Options) UseFileSystem(fs FileSystem) { o.fs = fs }

// UseLagAlarm changes how old a pending record is when its sink is reported.
func (o *Options) UseLagAlarm(age time.Duration) { o.lagAlarm = age }
