package qubevol

// SetDevices says where device files are.
func (f *Finder) SetDevices(dir string) { f.devices = dir }

// Written is written.
var Written = written
