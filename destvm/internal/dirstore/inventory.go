package dirstore

import "pinion/protocol"

// inventoryBatch is how many names of a directory are held at once, some 2 MiB.
// Directories hardly ever have more, and each further batch costs another
// reading of the directory.
const inventoryBatch = 16 << 10

// Inventory counts what is in each directory of packs and in the index. It
// needs no lock; what changes meanwhile may be counted or not.
func (s *Store) Inventory() (*protocol.Inventory, error) {
	v := new(protocol.Inventory)
	for i := range v.Rows {
		row, err := s.count(protocol.InventoryPrefix(i))
		if err != nil {
			return nil, err
		}
		v.Rows[i] = row
	}
	return v, nil
}

func (s *Store) count(prefix string) (protocol.InventoryRow, error) {
	var sum protocol.InventorySum
	for after, more := "", true; more; {
		var err error
		_, more, err = s.List(prefix, after, inventoryBatch, func(e protocol.Entry) error {
			after = e.Name
			if id, ok := protocol.ParseID(e.Name); ok {
				sum.Add(id, e.Size)
			}
			return nil
		})
		if err != nil {
			return protocol.InventoryRow{}, err
		}
	}
	return sum.Row(), nil
}
