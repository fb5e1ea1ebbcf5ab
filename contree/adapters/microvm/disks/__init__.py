"""What a guest finds as disks, and files in memory that nothing can change."""
