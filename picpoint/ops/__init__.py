"""Operations on clouds that decide the speed: farthest points, neighbours, gather-max."""
