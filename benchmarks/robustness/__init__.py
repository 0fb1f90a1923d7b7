"""What kills, full disks and the like leave behind."""
