"""Block devices: file, memory, and the recording and faulty ones for tests."""
