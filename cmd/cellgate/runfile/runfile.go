// Package runfile tells other processes where a running gateway listens: a small JSON file in its data
// folder, written once it serves and removed when it stops. What a kill leaves behind is overwritten by the
// next start, and recognised by its process being gone.
package runfile

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// Name of the file below the data folder.
const Name = "run.json"

// File is its content.
type File struct {
	PID       int        `json:"pid"`
	Version   string     `json:"version"`
	Started   time.Time  `json:"started"`
	Cell      string     `json:"cell"`
	Config    string     `json:"config"` // path of the configuration
	HTTP      string     `json:"http"`   // URL of the API
	Listeners []Listener `json:"listeners"`
	Kafka     []string   `json:"kafka"`
	Central   []string   `json:"central,omitempty"`
	Redis     []string   `json:"redis"`
}

// Listener is one MQTT listener and the address that it got.
type Listener struct {
	Name      string `json:"name"`
	Address   string `json:"address"`
	Protocol  string `json:"protocol"`
	TLS       bool   `json:"tls"`
	Anonymous bool   `json:"anonymous,omitempty"`
}

// Write puts the file into the data folder, as a whole.
func Write(dir string, f *File) error {
	body, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("run file: %w", err)
	}
	name := filepath.Join(dir, Name)
	if err := os.WriteFile(name+".new", append(body, '\n'), 0o644); err != nil { //nolint:gosec // addresses, for everyone
		return fmt.Errorf("run file: %w", err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		return fmt.Errorf("run file: %w", err)
	}
	return nil
}

// Read returns the file of the gateway that runs on the data folder, nil when none does.
func Read(dir string) (*File, error) {
	body, err := os.ReadFile(filepath.Join(dir, Name)) //nolint:gosec // the operator names the folder
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("run file: %w", err)
	}
	var f File
	if err := json.Unmarshal(body, &f); err != nil {
		return nil, fmt.Errorf("run file: %s: %w", filepath.Join(dir, Name), err)
	}
	if !alive(f.PID) {
		return nil, nil
	}
	return &f, nil
}

// Remove takes this process's file away.
func Remove(dir string) error {
	f, err := Read(dir)
	if err != nil || f == nil || f.PID != os.Getpid() {
		return err
	}
	if err := os.Remove(filepath.Join(dir, Name)); err != nil {
		return fmt.Errorf("run file: %w", err)
	}
	return nil
}

func alive(pid int) bool {
	if pid <= 0 {
		return false
	}
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// Vehicles returns the listener that vehicles use: the first with TLS, else the first.
func (f *File) Vehicles() (Listener, bool) {
	for _, l := range f.Listeners {
		if l.TLS && l.Protocol != "ws" {
			return l, true
		}
	}
	for _, l := range f.Listeners {
		if l.Protocol != "ws" {
			return l, true
		}
	}
	return Listener{}, false
}
