"""What a guest boots: the kernel's modules and the agent in an initramfs."""
