"""The quorum disk: nodes that write to a shared partition that they are alive, and one of them that says who counts."""
