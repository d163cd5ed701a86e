package configs

import "embed"

// Samples are the files that the binary carries: cell.yaml, dev.yaml and the folder rules.
//
//go:embed cell.yaml dev.yaml rules
var Samples embed.FS
