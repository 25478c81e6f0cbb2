output "vpc_id" {
  description = "The VPC."
  value       = aws_vpc.this.id
}

output "cidr" {
  description = "Its CIDR."
  value       = aws_vpc.this.cidr_block
}

output "zones" {
  description = "The availability zones with subnets, in the order of all lists here."
  value       = local.zones
}

output "public_subnet_ids" {
  description = "The public subnets, one a zone: of the hub and the spokes."
  value       = aws_subnet.public[*].id
}

output "private_subnet_ids" {
  description = "The private subnets, one a zone: of your hosts."
  value       = aws_subnet.private[*].id
}

output "private_route_table_ids" {
  description = "Their route tables."
  value       = aws_route_table.private[*].id
}
